"""A receipt becomes the same status update on both paths: made by the gateway, or by stage match."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.acknowledged_producer import OutgoingRecord
from pipelines.engine.stage import Output
from pipelines.gateway import UPDATES, _receipt
from pipelines.match import Match
from schemas import codec, metrics, tracker
from schemas.accounts import Accounts
from schemas.records import Receipt, ReceiptStatus, StatusUpdate
from tests.support.builders import NOW, PARTITIONS, TRACKER_KEYS, Desk, delivery, examples, raw, receipt, refused

ACCOUNTS = Accounts({("whatsapp", "of-acme"): "acme", ("whatsapp", "of-t"): "t"})
NO_PARTITION = 0  # every tracker then names a wrong partition, so the gateway leaves the receipt to match
SENDERS = st.sampled_from(["acc-1", "of-acme", "of-t"])
IDS = st.sampled_from(["c-1", "conv|ção 1", "100%", "a/b c"])
TRACKED: st.SearchStrategy[str | None] = st.builds(
    lambda tenant, account, conversation, name, home, attempt, partial: tracker.encode(
        delivery(name, tenant_id=tenant, account=account, conversation_id=conversation, home_partition=home),
        attempt,
        TRACKER_KEYS,
        partial=partial,
    ),
    st.sampled_from(["default", "acme", "t"]),
    SENDERS,
    IDS,
    IDS,
    st.integers(0, PARTITIONS + 1),
    st.integers(1, 2**31 - 1),
    st.booleans(),
)
FORGED = st.sampled_from(
    ["c4a1|default|d1|c-1|0|1", "c4a2|AAAAAAAAAAAAAAAA|default|d1|c-1|0|1", "c4a2|default|d1|c-1|0|1", "4711"]
)
RECEIPTS: st.SearchStrategy[Mapping[str, Any]] = st.fixed_dictionaries(
    {
        "callback_data": TRACKED | TRACKED | FORGED | st.none(),
        "account": SENDERS,
        "status": st.sampled_from(ReceiptStatus),
        "provider_at": st.integers(NOW - 5000, NOW + 5000),
        "received_at": st.integers(NOW - 5000, NOW + 5000),
        "inferred": st.booleans(),
        "error_code": st.none() | st.just("131026"),
        "error_title": st.none() | st.just("não"),
    }
)


def matched(received: Receipt) -> tuple[list[Output], list[str]]:
    """What match makes of the receipt: its outputs, and the causes of its refusals."""
    sent = _receipt(received, NO_PARTITION, ACCOUNTS, TRACKER_KEYS)
    assert (sent.topic, sent.partition) == ("receipts", None)
    desk = Desk(Match(partitions=PARTITIONS, binding_ms=1000, orphan_ms=1000, tracker_keys=TRACKER_KEYS))
    decision = desk.turn([raw(sent.topic, sent.value, key=sent.key)])
    return decision.outputs, refused(decision)


@examples(300)
@given(fields=RECEIPTS)
def test_both_paths_make_the_identical_update(
    fields: Mapping[str, Any],
) -> None:
    received = receipt(**fields)
    sent = _receipt(received, PARTITIONS, ACCOUNTS, TRACKER_KEYS)
    outputs, causes = matched(received)
    if sent.topic == UPDATES:
        assert [OutgoingRecord(each.topic, each.key, each.value or b"", each.partition) for each in outputs] == [sent]
        assert causes == []
    else:
        assert sent == _receipt(received, NO_PARTITION, ACCOUNTS, TRACKER_KEYS)
        assert outputs == []
        assert causes in ([], ["wrong_partition"], ["wrong_tenant"])


def test_a_valid_tracker_makes_an_update_and_a_wrong_one_is_left_to_match() -> None:
    def kept(data: str | None, partitions: int = PARTITIONS, **changes: Any) -> OutgoingRecord:
        return _receipt(receipt(callback_data=data, **changes), partitions, ACCOUNTS, TRACKER_KEYS)

    def tracker_for(account: str, tenant_id: str = "t") -> str | None:
        return tracker.encode(delivery(tenant_id=tenant_id, account=account, home_partition=2), 1, TRACKER_KEYS)

    data = tracker_for("acc-1")
    assert kept(data).partition == 2
    assert kept(tracker_for("of-t"), account="of-t").topic == UPDATES
    assert kept(tracker_for("of-acme"), account="of-acme").topic == "receipts", "of another tenant"
    assert kept(tracker_for("of-t"), account="of-acme").topic == kept(tracker_for("of-t")).topic == "receipts", (
        "of another account"
    )
    assert kept(data, 2).topic == "receipts", "no such partition"
    assert kept(None).topic == "receipts"


def test_a_forged_tracker_fails_nobodys_delivery_and_is_counted() -> None:
    """Another sender with the same account may write a tracker that an earlier release accepted."""
    forged = "c4a1|t|dlv-of-t|c-1|2|1", "c4a2|AAAAAAAAAAAAAAAA|t|dlv-of-t|c-1|2|1"
    doubted = metrics.WEBHOOK_ITEMS.labels("whatsapp", "tracker_not_believed")
    before = doubted._value.get()
    for data in forged:
        received = receipt(callback_data=data, status=ReceiptStatus.FAILED)
        assert _receipt(received, PARTITIONS, ACCOUNTS, TRACKER_KEYS).topic == "receipts"
        assert matched(received) == ([], [])
    assert doubted._value.get() == before + 2 * len(forged)


@pytest.mark.parametrize("provider_at", [0, NOW // 1000, NOW + 365 * 86_400_000], ids=["1970", "seconds", "next year"])
def test_a_time_that_cannot_be_right_is_that_of_arrival_in_the_gateway_too(provider_at: int) -> None:
    counted = metrics.WEBHOOK_ITEMS.labels("whatsapp", "implausible_time")
    before = counted._value.get()
    signed = tracker.encode(delivery(), 1, TRACKER_KEYS)
    sent = _receipt(receipt(callback_data=signed, provider_at=provider_at), PARTITIONS, keys=TRACKER_KEYS)
    update = codec.decode(sent.value, StatusUpdate)
    assert (sent.topic, update.occurred_at, update.observed_at) == (UPDATES, NOW + 1500, NOW + 1500)
    assert counted._value.get() == before + 1
