"""Table `orphans` of stage match: receipts that found no delivery stay for a while, and a binding that comes after all finds them."""

from typing import Any

import pytest

from pipelines.engine.stage import Record
from pipelines.match import Match, State
from schemas.records import ReceiptStatus, Status, StatusUpdate
from tables.orphans import MOST_ORPHANED, OrphanedReceipts
from tests.support.builders import (
    NOW,
    PARTITIONS,
    TRACKER_KEYS,
    Desk,
    binding,
    decoded,
    receipt,
    record,
    refused,
    signed_tracker,
)

ORPHAN_MS = 60_000
KEPT_MS = 2 * 86_400_000
KEY = b"whatsapp:acc-1:wamid-1"
LATE = NOW + ORPHAN_MS


def a_match() -> Match:
    return Match(
        partitions=PARTITIONS,
        binding_ms=7 * 86_400_000,
        orphan_ms=ORPHAN_MS,
        orphan_kept_ms=KEPT_MS,
        tracker_keys=TRACKER_KEYS,
    )


@pytest.fixture
def desk() -> Desk[State]:
    return Desk(a_match(), partition=3)


def got(provider_message_id: str = "wamid-1", **changes: Any) -> Record:
    key = f"whatsapp:acc-1:{provider_message_id}".encode()
    return record("receipts", receipt(provider_message_id, **changes), key=key, partition=3)


def bound(**changes: Any) -> Record:
    return record("bindings", binding(**changes), key=KEY, partition=3)


def test_a_given_up_receipt_stays_with_its_reason(desk: Desk[State]) -> None:
    came = got()._replace(offset=7)
    desk.turn([came])
    assert refused(desk.turn(now=LATE)) == ["orphan_receipt"]
    row: OrphanedReceipts = desk.rows("orphans")[KEY]
    assert (row.since, row.reasons, row.receipts) == (LATE, ("no_binding",), (came.value,))
    assert row.places == ((7, came.timestamp, "wamid-1:DELIVERED"),)
    desk.restart(a_match())
    assert desk.due() == LATE + KEPT_MS
    desk.turn(now=LATE + KEPT_MS)
    assert not any(desk.changelog.values())


def test_a_binding_that_comes_after_all_matches_its_orphans(desk: Desk[State]) -> None:
    statuses = [ReceiptStatus.SENT, ReceiptStatus.READ]
    desk.turn([got(status=each) for each in statuses])
    desk.turn(now=LATE)
    desk.restart(a_match())
    decision = desk.turn([bound()], now=LATE + 5)
    assert [each.status for each in decoded(decision.outputs, "status-updates", StatusUpdate)] == [
        Status(each) for each in statuses
    ]
    assert decision.counts == {"matched_after_orphaned": 2}
    assert not desk.changelog["orphans"]


def test_a_redriven_dead_letter_is_the_same_event(desk: Desk[State]) -> None:
    """Before the binding it adds nothing; after it, it gives the update with the same id, which track knows."""
    desk.turn([got()])
    letter = desk.turn(now=LATE).refusals[0].record
    decision = desk.turn([letter], now=LATE + 1)
    assert (decision.counts, decision.outputs, decision.refusals) == ({"repeated": 1}, [], [])
    first = decoded(desk.turn([bound()], now=LATE + 2).outputs, "status-updates", StatusUpdate)
    again = decoded(desk.turn([letter], now=LATE + 3).outputs, "status-updates", StatusUpdate)
    assert first == again
    assert len(first) == 1


def test_receipts_beyond_the_bound_of_those_that_wait_are_orphans_at_once(desk: Desk[State]) -> None:
    desk.turn([got(event_id=f"e-{n}") for n in range(MOST_ORPHANED)])
    decision = desk.turn([got(event_id="one more")])
    assert refused(decision) == ["too_many_waiting"]
    assert desk.rows("orphans")[KEY].reasons == ("too_many_waiting",)
    assert desk.turn([bound()]).counts == {"matched_after_orphaned": 1, "matched_late": MOST_ORPHANED}


def test_a_row_holds_a_bounded_number_of_receipts(desk: Desk[State]) -> None:
    desk.turn([got(event_id=f"e-{n}") for n in range(MOST_ORPHANED + 1)])
    assert desk.turn(now=LATE).counts == {"orphan_not_kept": 1}
    assert len(desk.rows("orphans")[KEY].receipts) == MOST_ORPHANED


FOREIGN = {
    "its tracker names a delivery of another tenant": {
        "tenant_id": "acme",
        "callback_data": signed_tracker("|t|dlv-1|c|0|1"),
    },
    "its binding names a delivery of another tenant": {"tenant_id": "acme"},
}


@pytest.mark.parametrize("changes", FOREIGN.values(), ids=FOREIGN)
def test_a_receipt_of_another_tenant_is_kept_and_no_binding_takes_it(
    changes: dict[str, Any], desk: Desk[State]
) -> None:
    decision = desk.turn([bound(tenant_id="t"), got(**changes)])
    assert (refused(decision), decision.outputs) == (["wrong_tenant"], [])
    assert decision.refusals[0].tenant_id == "acme"
    decision = desk.turn([bound(tenant_id="t")])
    assert (decision.outputs, decision.refusals) == ([], [])
    assert desk.rows("orphans")[KEY].reasons == ("wrong_tenant",)


def test_a_binding_takes_only_what_it_can_match(desk: Desk[State]) -> None:
    desk.turn([got(event_id="good")])
    desk.turn(now=LATE)
    desk.turn([got(event_id="foreign", tenant_id="acme", callback_data=signed_tracker("|t|dlv-1|c|0|1"))], now=LATE)
    assert desk.turn([bound()], now=LATE).counts == {"matched_after_orphaned": 1}
    assert [each[2] for each in desk.rows("orphans")[KEY].places] == ["foreign"]


def test_a_waiting_receipt_of_another_tenant_is_refused_when_its_binding_comes(desk: Desk[State]) -> None:
    desk.turn([got(tenant_id="acme")._replace(offset=4)])
    decision = desk.turn([bound(tenant_id="t")])
    assert refused(decision) == ["wrong_tenant"]
    assert decision.refusals[0].record.offset == 4


def test_the_oldest_orphans_make_room_for_new_ones(desk: Desk[State], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.match_orphans.MOST_ORPHANS", 2)
    for n in range(4):
        desk.turn([got(f"w-{n}")], now=NOW + n * ORPHAN_MS)
    evicted = 0
    for n in range(1, 7):
        evicted += desk.turn(now=NOW + n * ORPHAN_MS).counts.get("orphan_evicted", 0)
    assert (evicted, sorted(desk.changelog["orphans"])) == (2, [b"whatsapp:acc-1:w-2", b"whatsapp:acc-1:w-3"])


WRONG_TIMES = {
    "1970": 0,
    "seconds in place of milliseconds": NOW // 1000,
    "next year": NOW + 365 * 86_400_000,
}


@pytest.mark.parametrize("provider_at", WRONG_TIMES.values(), ids=WRONG_TIMES)
def test_a_receipt_with_a_time_that_cannot_be_right_counts_from_its_arrival(
    provider_at: int, desk: Desk[State]
) -> None:
    decision = desk.turn([bound(), got(provider_at=provider_at, received_at=NOW + 9)])
    (update,) = decoded(decision.outputs, "status-updates", StatusUpdate)
    assert (update.occurred_at, update.observed_at) == (NOW + 9, NOW + 9)
    assert decision.counts == {"matched": 1, "implausible_time": 1}
