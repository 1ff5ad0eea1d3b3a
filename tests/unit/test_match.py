"""Stage match: a receipt finds its delivery in any order of arrival; a receipt without one becomes a dead letter with its bytes."""

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.stage import Output, Record
from pipelines.match import Match, State
from schemas import codec, tracker
from schemas.causes import DESCRIPTIONS
from schemas.records import Cause, Receipt, ReceiptStatus, Status, StatusUpdate
from schemas.tracker import Keys
from tests.support.builders import (
    HERE,
    NOW,
    PARTITIONS,
    TRACKER_KEYS,
    Desk,
    binding,
    decoded,
    delivery,
    examples,
    numbered,
    raw,
    receipt,
    record,
    refused,
)

ORPHAN_MS = 60_000
BINDING_MS = 7 * 86_400_000
KEPT_MS = 2 * 86_400_000


def a_match() -> Match:
    return Match(
        partitions=PARTITIONS,
        binding_ms=BINDING_MS,
        orphan_ms=ORPHAN_MS,
        orphan_kept_ms=KEPT_MS,
        tracker_keys=TRACKER_KEYS,
    )


@pytest.fixture
def desk() -> Desk[State]:
    return Desk(a_match(), partition=3)


def got(provider_message_id: str = "wamid-1", *, key: bytes | None = None, **changes: Any) -> Record:
    """A receipt as the gateway produces it."""
    content = receipt(provider_message_id, **changes)
    place = f"{content.channel}:{content.account}:{provider_message_id}".encode()
    return record("receipts", content, key=key or place, partition=3)


def bound(provider_message_id: str = "wamid-1", delivery_id: str = "dlv-1", **changes: Any) -> Record:
    content = binding(provider_message_id, delivery_id, **changes)
    place = f"{content.channel}:{content.account}:{provider_message_id}".encode()
    return record("bindings", content, key=place, partition=3)


def updates(outputs: list[Output]) -> list[StatusUpdate]:
    return decoded(outputs, "status-updates", StatusUpdate)


# --- the join -----------------------------------------------------------------------------------------------------------

BOTH_ORDERS = {
    "the binding first": [[bound(), got()]],
    "the receipt first": [[got(), bound()]],
    "the binding a turn before": [[bound()], [got()]],
    "the receipt a turn before": [[got()], [bound()]],
}


@pytest.mark.parametrize("turns", BOTH_ORDERS.values(), ids=BOTH_ORDERS)
@pytest.mark.parametrize("restarts", [False, True], ids=["one worker", "a worker a turn"])
def test_a_receipt_finds_its_delivery(turns: list[list[Record]], *, restarts: bool, desk: Desk[State]) -> None:
    outputs = []
    for batch in turns:
        outputs += desk.turn(batch).outputs
        if restarts:
            desk.restart(a_match())
    assert [(o.topic, o.key, o.partition) for o in outputs] == [("status-updates", HERE.encode(), 0)]
    (found,) = updates(outputs)
    assert (found.delivery_id, found.status, found.cause) == ("dlv-1", Status.DELIVERED, Cause.RECEIPT)
    assert (found.event_id, found.provider_message_id) == ("wamid-1:DELIVERED", "wamid-1")
    assert not desk.changelog["waiting"]
    assert desk.state.waits.next_due() is None, "no receipt waits any more"


def test_waiting_receipts_become_updates_in_order_of_arrival(desk: Desk[State]) -> None:
    statuses = [ReceiptStatus.READ, ReceiptStatus.SENT, ReceiptStatus.DELIVERED]
    for each in statuses:
        desk.turn([got(status=each)])
    assert [u.status for u in updates(desk.turn([bound()]).outputs)] == [Status(each) for each in statuses]


OTHERS = {
    "channel": got(channel="telegram"),
    "account": got(account="acc-2"),
    "provider id": got("wamid-2"),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_receipt_of_another_message_is_not_taken_for_ours(other: Record, desk: Desk[State]) -> None:
    assert desk.turn([bound(), other]).outputs == []
    assert len(desk.changelog["waiting"]) == 1


def test_a_receipts_reason_is_in_the_update(desk: Desk[State]) -> None:
    words: dict[str, Any] = {
        "status": ReceiptStatus.FAILED,
        "error_code": "131026",
        "error_title": "no",
        "inferred": True,
    }
    (found,) = updates(desk.turn([bound(tenant_id="t", home_partition=2), got(**words)]).outputs)
    assert (found.status, found.reason_code, found.reason, found.inferred) == (Status.FAILED, "131026", "no", True)
    assert (found.tenant_id, found.home_partition) == ("t", 2)


TIMES = {
    "a whole second may have been any moment of it": (NOW, NOW + 1500, NOW + 999),
    "but never after the receipt arrived": (NOW, NOW + 300, NOW + 300),
    "nor may a provider's fast clock be": (NOW + 5000, NOW + 300, NOW + 300),
}


@pytest.mark.parametrize(("provider_at", "received_at", "occurred_at"), TIMES.values(), ids=TIMES)
def test_when_it_occurred(provider_at: int, received_at: int, occurred_at: int, desk: Desk[State]) -> None:
    (found,) = updates(desk.turn([bound(), got(provider_at=provider_at, received_at=received_at)]).outputs)
    assert (found.occurred_at, found.observed_at) == (occurred_at, received_at)


@pytest.mark.parametrize("told_to", ["default", "t"])
def test_a_receipt_of_a_shared_account_or_of_the_same_tenant_moves_its_delivery(
    told_to: str, desk: Desk[State]
) -> None:
    decision = desk.turn([got(callback_data=tracked(tenant_id="t"), tenant_id=told_to)])
    assert [each.tenant_id for each in updates(decision.outputs)] == ["t"]
    assert [output.key for output in decision.outputs] == [f"t/{HERE}".encode()]


def test_a_receipt_of_one_tenants_account_moves_no_delivery_of_another(desk: Desk[State]) -> None:
    """The account belonged to another tenant when the tracker was made, or its present owner has seen such a tracker."""
    copied = got(callback_data=tracked(tenant_id="t"), tenant_id="acme")
    (refusal,) = desk.turn([copied]).refusals
    assert (refusal.cause, refusal.tenant_id, refusal.record) == ("wrong_tenant", "acme", copied)


def test_an_id_seen_for_another_delivery_belongs_to_the_newer_one_and_is_counted(desk: Desk[State]) -> None:
    desk.turn([bound(delivery_id="older"), bound(delivery_id="older")])
    decision = desk.turn([bound(delivery_id="newer"), got()])
    assert decision.counts == {"id_reused": 1, "matched": 1}
    assert [each.delivery_id for each in updates(decision.outputs)] == ["newer"]


# --- the tracker --------------------------------------------------------------------------------------------------------


def tracked(**changes: Any) -> str | None:
    return tracker.encode(delivery(**changes), 2, TRACKER_KEYS)


def test_a_receipt_with_our_tracker_needs_no_binding(desk: Desk[State]) -> None:
    odd = "conv|ção 1"
    decision = desk.turn([got(callback_data=tracked(conversation_id=odd, tenant_id="t", home_partition=2))])
    (found,) = updates(decision.outputs)
    assert (found.delivery_id, found.conversation_id, found.tenant_id) == ("dlv-1", odd, "t")
    assert (found.status, found.attempt) == (Status.DELIVERED, 2)
    assert [(o.key, o.partition) for o in decision.outputs] == [(f"t/{odd}".encode(), 2)]
    assert not any(desk.changelog.values())
    assert desk.due() is None


@pytest.mark.parametrize("tracker_says", [True, False])
def test_a_part_before_the_last_explains_and_only_its_failure_moves_the_delivery(
    tracker_says: bool, desk: Desk[State]
) -> None:
    data = tracker.encode(delivery(), 2, TRACKER_KEYS, partial=True) if tracker_says else None
    read, failed = (got(status=status, callback_data=data) for status in (ReceiptStatus.READ, ReceiptStatus.FAILED))
    decision = desk.turn([bound(partial=True), read, failed])
    assert [(each.status, each.attempt) for each in updates(decision.outputs)] == [
        (Status.PENDING, 2 * tracker_says),
        (Status.FAILED, 2 * tracker_says),
    ]


def test_a_tracker_of_this_deployment_with_other_partitions_is_refused(desk: Desk[State]) -> None:
    stray = got(callback_data=tracked(home_partition=PARTITIONS, tenant_id="t"))
    decision = desk.turn([bound(), stray])
    assert refused(decision) == ["wrong_partition"]
    assert decision.refusals[0].record == stray
    assert decision.refusals[0].tenant_id == "t"
    assert decision.outputs == []


@pytest.mark.parametrize("partition", [PARTITIONS, -1])
def test_a_binding_of_another_deployment_is_refused(partition: int, desk: Desk[State]) -> None:
    decision = desk.turn([bound(home_partition=partition), got()])
    assert refused(decision) == ["wrong_partition"]
    assert decision.outputs == []
    assert not desk.changelog["bindings"]


FOREIGN = Keys((b"another deployment's key of 32 bytes",))
NOT_OURS = {
    "another system's": "order-4711",
    "one of a later version": "c4a3|default|dlv-1|conv|0|1",
    "one without a signature, as of an older release": "c4a1|default|dlv-1|conv|0|1",
    "one with an unknown signature": "c4a2|AAAAAAAAAAAAAAAA|default|dlv-1|conv|0|1",
    "another deployment's": tracker.encode(delivery(), 2, FOREIGN) or "",
    "one with a partition of 1,900 digits": f"c4a2|AAAAAAAAAAAAAAAA|default|dlv-1|conv|{'9' * 1900}|1",
}


@pytest.mark.parametrize("data", NOT_OURS.values(), ids=NOT_OURS)
def test_a_receipt_with_a_foreign_tracker_needs_a_binding(data: str, desk: Desk[State]) -> None:
    decision = desk.turn([bound(), got(callback_data=data)])
    (found,) = updates(decision.outputs)
    assert (found.delivery_id, decision.refusals) == ("dlv-1", [])
    assert decision.counts == {"tracker_not_believed": 1, "matched": 1}


def test_a_receipt_without_a_tracker_needs_a_binding(desk: Desk[State]) -> None:
    assert desk.turn([bound(), got(callback_data=None)]).counts == {"matched": 1}


# --- what finds nothing -------------------------------------------------------------------------------------------------


def test_an_orphan_is_a_dead_letter_with_its_bytes_and_its_place(desk: Desk[State]) -> None:
    first, second = got()._replace(offset=7), got(status=ReceiptStatus.READ)._replace(offset=9, timestamp=NOW + 3)
    desk.turn([first])
    desk.turn([second], now=NOW + 500)
    assert desk.due() == NOW + ORPHAN_MS, "counted from the first"
    desk.restart(a_match())
    assert desk.due() == NOW + ORPHAN_MS
    assert desk.turn(now=NOW + ORPHAN_MS - 1).refusals == []
    decision = desk.turn(now=NOW + ORPHAN_MS)
    assert refused(decision) == ["orphan_receipt", "orphan_receipt"]
    assert "orphan_receipt" in DESCRIPTIONS
    assert [refusal.record for refusal in decision.refusals] == [first, second]
    assert not desk.changelog["waiting"]
    assert desk.due() == NOW + ORPHAN_MS + KEPT_MS


def test_a_binding_is_forgotten_after_its_window(desk: Desk[State]) -> None:
    desk.turn([bound()])
    desk.turn([bound("wamid-2", bound_at=NOW + 2 * 3_600_000)])
    due = desk.due()
    assert due is not None
    assert due >= NOW + BINDING_MS
    desk.turn(now=due)
    assert list(desk.changelog["bindings"]) == [b"whatsapp:acc-1:wamid-2"]
    assert desk.turn([got()], now=due).outputs == []


def test_a_repeated_binding_is_kept_from_then(desk: Desk[State]) -> None:
    desk.turn([bound()])
    desk.turn([bound(bound_at=NOW + BINDING_MS // 2)])
    desk.turn(now=NOW + BINDING_MS)
    assert desk.changelog["bindings"]
    desk.turn(now=desk.due() or 0)
    assert not desk.changelog["bindings"]


class Unreadable(NamedTuple):
    topic: str
    value: bytes | None
    cause: str


UNREADABLE = (
    Unreadable("receipts", b"junk", "not_avro"),
    Unreadable("bindings", codec.encode(receipt()), "unexpected_record"),
    Unreadable("receipts", codec.encode(receipt())[:-2], "malformed_datum"),
    Unreadable("bindings", None, "not_avro"),
)


@pytest.mark.parametrize("case", UNREADABLE, ids=lambda case: f"{case.topic}: {case.cause}")
def test_what_cannot_be_read_is_refused_and_the_rest_is_taken(case: Unreadable, desk: Desk[State]) -> None:
    decision = desk.turn([bound(), raw(case.topic, case.value, partition=3, offset=5), got()])
    assert refused(decision) == [case.cause]
    assert len(updates(decision.outputs)) == 1


# --- any order ----------------------------------------------------------------------------------------------------------

_IDS = st.sampled_from(["w1", "w2", "w3"])
_TRACKERS = st.sampled_from([None, None, tracked()])
_RECEIPTS = st.builds(got, _IDS, status=st.sampled_from(ReceiptStatus), callback_data=_TRACKERS)
_BINDINGS = _IDS.map(lambda i: bound(i, f"of-{i}"))


@examples(200)
@given(came=st.lists(st.one_of(_RECEIPTS, _RECEIPTS, _BINDINGS), max_size=14), data=st.data())
def test_any_order_and_any_turns_give_the_same_updates_and_no_receipt_is_lost(
    came: list[Record], data: st.DataObject
) -> None:
    desk = Desk(a_match(), partition=3)
    left = numbered(data.draw(st.permutations(came), label="order"))
    receipts = [codec.decode(each.value, Receipt) for each in left if each.topic == "receipts"]
    claimed = {each.key for each in left if each.topic == "bindings"}
    outputs: list[Output] = []
    repeated = 0
    while left:
        size = data.draw(st.integers(1, len(left)), label="size of the turn")
        fate = data.draw(st.sampled_from(["commit", "commit", "undone", "restart"]), label="fate of the turn")
        if fate == "commit":
            decision = desk.turn(left[:size])
            outputs += decision.outputs
            repeated += decision.counts.get("repeated", 0)
            left = left[size:]
            continue
        desk.decide(left[:size])
        if fate == "undone":
            desk.reopen()
        else:
            desk.restart(a_match())
    orphans = desk.turn(now=NOW + ORPHAN_MS).refusals
    expected = [
        (each.event_id, "dlv-1" if each.callback_data else f"of-{each.provider_message_id}")
        for each in receipts
        if each.callback_data or f"whatsapp:acc-1:{each.provider_message_id}".encode() in claimed
    ]
    assert {(each.event_id, each.delivery_id) for each in updates(outputs)} == set(expected)
    assert len(outputs) + len(orphans) + repeated == len(receipts), "each is published, refused, or waits already"
    assert all(refusal.record.value for refusal in orphans)
    assert not desk.changelog["waiting"]
