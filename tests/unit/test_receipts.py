"""A receipt becomes the same status update whichever way it takes: told by the gateway, or matched."""

from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.stage import Output
from pipelines.gateway import UPDATES, _receipt
from pipelines.match import Match
from pipelines.produce import Produced
from schemas import tracker
from schemas.accounts import Accounts
from schemas.records import Receipt, ReceiptStatus
from tests.builders import NOW, PARTITIONS, Desk, delivery, examples, raw, receipt, refused

ACCOUNTS = Accounts({("whatsapp", "of-acme"): "acme", ("whatsapp", "of-t"): "t"})
NO_PARTITION = 0  # with which every tracker is another deployment's, and the gateway leaves the receipt to match
IDS = st.sampled_from(["c-1", "conv|ção 1", "100%", "a/b c"])
TRACKED: st.SearchStrategy[str | None] = st.builds(
    lambda tenant, conversation, name, home, attempt, partial: tracker.encode(
        delivery(name, tenant_id=tenant, conversation_id=conversation, home_partition=home), attempt, partial=partial
    ),
    st.sampled_from(["default", "acme", "t"]), IDS, IDS, st.integers(0, PARTITIONS + 1), st.integers(1, 2**31 - 1),
    st.booleans(),
)  # fmt: skip
FORGED = st.sampled_from(
    ["c4a1|default|d1|c-1|0", "c4a1|a%2Fb|d1|c-1|0|1", "c4a2|default|d1|c-1|0|1", "c4a1|default|d1|c-1|-1|1", "4711"]
)
RECEIPTS: st.SearchStrategy[Mapping[str, Any]] = st.fixed_dictionaries(
    {
        "callback_data": TRACKED | TRACKED | FORGED | st.none(),
        "account": st.sampled_from(["acc-1", "of-acme", "of-t"]),
        "status": st.sampled_from(ReceiptStatus),
        "provider_at": st.integers(NOW - 5000, NOW + 5000),
        "received_at": st.integers(NOW - 5000, NOW + 5000),
        "inferred": st.booleans(),
        "error_code": st.none() | st.just("131026"),
        "error_title": st.none() | st.just("não"),
    }
)


def matched(told: Receipt) -> tuple[list[Output], list[str]]:
    """What match makes of the receipt: its outputs, and the causes of its refusals."""
    sent = _receipt(told, NO_PARTITION, ACCOUNTS)
    assert (sent.topic, sent.partition) == ("receipts", None)
    desk = Desk(Match(partitions=PARTITIONS, binding_ms=1000, orphan_ms=1000))
    decision = desk.turn([raw(sent.topic, sent.value, key=sent.key)])
    return decision.outputs, refused(decision)


@examples(300)
@given(fields=RECEIPTS)
def test_both_ways_make_the_identical_update_and_the_gateway_takes_none_that_match_would_not(
    fields: Mapping[str, Any],
) -> None:
    told = receipt(**fields)
    sent = _receipt(told, PARTITIONS, ACCOUNTS)
    outputs, causes = matched(told)
    if sent.topic == UPDATES:
        assert [Produced(each.topic, each.key, each.value or b"", each.partition) for each in outputs] == [sent]
        assert causes == []
    else:
        assert sent == _receipt(told, NO_PARTITION, ACCOUNTS)
        assert outputs == []
        assert causes in ([], ["wrong_partition"], ["wrong_tenant"])


def test_a_tracker_is_told_at_once_and_one_that_lies_is_left_to_match() -> None:
    data = tracker.encode(delivery(tenant_id="t", home_partition=2), 1)
    assert _receipt(receipt(callback_data=data), PARTITIONS, ACCOUNTS).partition == 2
    assert _receipt(receipt(callback_data=data, account="of-t"), PARTITIONS, ACCOUNTS).topic == UPDATES
    assert _receipt(receipt(callback_data=data, account="of-acme"), PARTITIONS, ACCOUNTS).topic == "receipts"
    assert _receipt(receipt(callback_data=data), 2, ACCOUNTS).topic == "receipts", "no such partition"
    assert _receipt(receipt(callback_data=None), PARTITIONS, ACCOUNTS).topic == "receipts"
