"""Stage track: a delivery that is SENT for longer than its channel's time gets a label, never a status; a late receipt takes it away."""

from typing import Any

import pytest

from pipelines.engine.stage import Decision, Record
from pipelines.track import EXPIRED_PER_TURN, Track
from pipelines.track_state import State
from schemas.records import Cause, DeliveryState, Status
from tests.support.builders import NOW, OBSERVED, Desk, decoded, numbered, record, ref, sequenced, update

HOUR = 3_600_000
STATE_MS = 192 * HOUR
LIMITS = {"whatsapp": HOUR, "internal": 2 * HOUR}
PENDING, SENT, DELIVERED, READ, FAILED = Status.PENDING, Status.SENT, Status.DELIVERED, Status.READ, Status.FAILED


def new_stage() -> Track:
    return Track(state_ms=STATE_MS, observed=OBSERVED, stalled_ms=LIMITS)


@pytest.fixture
def desk() -> Desk[State]:
    return Desk(new_stage())


def begun(number: int = 1, **changes: Any) -> Record:
    about = {"seq": number, "message_id": f"m{number}"} | changes.pop("about", {})
    return record("conversation-log", sequenced(ref(f"d{number}", **changes), **about))


def said(status: Status, at: int = 0, number: int = 1, **changes: Any) -> Record:
    about: dict[str, Any] = {
        "delivery_id": f"d{number}",
        "status": status,
        "occurred_at": NOW + at,
        "observed_at": NOW + at,
    }
    if status is SENT:
        about |= {"cause": Cause.ACCEPTED, "provider_message_id": f"p{number}"}
    return record("status-updates", update(f"d{number}:{status}:{at}", **(about | changes)))


def turn(desk: Desk[State], *kafka_records: Record, at: int = 0) -> Decision:
    return desk.turn(numbered(kafka_records), now=NOW + at)


def labels(decision: Decision) -> list[tuple[str, Status, int | None]]:
    return [
        (s.delivery_id, s.status, s.stalled_at) for s in decoded(decision.outputs, "delivery-states", DeliveryState)
    ]


def test_what_is_sent_for_too_long_is_labelled_and_listed(desk: Desk[State]) -> None:
    turn(desk, begun(), said(SENT))
    due = desk.due()
    assert due == NOW + HOUR
    assert turn(desk, at=HOUR - 1).outputs == []
    decision = turn(desk, at=HOUR)
    (state,) = decoded(decision.outputs, "delivery-states", DeliveryState)
    assert (state.status, state.previous_status, state.cause) == (SENT, SENT, Cause.STALLED)
    assert (state.version, state.stalled_at, state.occurred_at, state.anomaly) == (3, NOW + HOUR, NOW + HOUR, None)
    assert decision.counts == {"stalled": 1}
    row = desk.rows("stalled")[b"d1"]
    assert (row.message_id, row.channel, row.sent_at, row.stalled_at) == ("m1", "whatsapp", NOW, NOW + HOUR)
    assert desk.rows("awaiting") == {}
    assert turn(desk, at=3 * HOUR).outputs == [], "once"


@pytest.mark.parametrize("status", [DELIVERED, READ, FAILED])
def test_a_late_receipt_takes_the_label_away(status: Status, desk: Desk[State]) -> None:
    turn(desk, begun(), said(SENT))
    turn(desk, at=HOUR)
    desk.restart(new_stage())
    assert desk.rows("timelines")[b"d1"].stalled_at == NOW + HOUR
    decision = turn(desk, said(status, 2 * HOUR), at=2 * HOUR)
    assert labels(decision) == [("d1", status, None)]
    assert decision.counts["stalled_cleared"] == 1
    assert desk.rows("stalled") == {}
    assert desk.rows("timelines")[b"d1"].stalled_at is None


def test_news_that_change_no_status_leave_the_label(desk: Desk[State]) -> None:
    turn(desk, begun(), said(SENT))
    turn(desk, at=HOUR)
    assert labels(turn(desk, said(SENT, 30), at=2 * HOUR)) == [("d1", SENT, NOW + HOUR)]
    assert set(desk.rows("stalled")) == {b"d1"}


def test_a_read_that_covers_takes_the_label_away(desk: Desk[State]) -> None:
    of = {"channel": "instagram"}
    stage = Track(state_ms=STATE_MS, observed=OBSERVED, stalled_ms={"instagram": HOUR})
    desk = Desk(stage)
    turn(desk, begun(1, **of), begun(2, **of), said(SENT, 0, 1), said(SENT, 0, 2))
    turn(desk, at=HOUR)
    assert set(desk.rows("stalled")) == {b"d1", b"d2"}
    decision = turn(desk, said(READ, 2 * HOUR, 2), at=2 * HOUR)
    assert decision.counts["stalled_cleared"] == 2
    assert desk.rows("stalled") == {}


def test_a_receipt_in_time_ends_the_wait(desk: Desk[State]) -> None:
    turn(desk, begun(), said(SENT))
    assert set(desk.rows("awaiting")) == {b"d1"}
    turn(desk, said(DELIVERED, HOUR - 1), at=HOUR - 1)
    assert desk.rows("awaiting") == {}
    assert turn(desk, at=5 * HOUR).outputs == []


def test_a_receipt_in_the_turn_in_which_the_time_is_over_is_in_time(desk: Desk[State]) -> None:
    turn(desk, begun(), said(SENT))
    assert labels(turn(desk, said(READ, HOUR), at=HOUR)) == [("d1", READ, None)]
    assert desk.rows("stalled") == {}


@pytest.mark.parametrize("channel", ["telegram", "instagram"])
def test_a_channel_without_a_time_waits_for_nothing(channel: str, desk: Desk[State]) -> None:
    turn(desk, begun(channel=channel), said(SENT))
    assert (desk.rows("awaiting"), desk.rows("stalled")) == ({}, {})
    assert turn(desk, at=100 * HOUR).outputs == []


def test_each_channel_has_its_own_time(desk: Desk[State]) -> None:
    turn(desk, begun(1), begun(2, channel="internal"), said(SENT, 0, 1), said(SENT, 0, 2))
    assert [each[0] for each in labels(turn(desk, at=HOUR))] == ["d1"]
    assert [each[0] for each in labels(turn(desk, at=2 * HOUR))] == ["d2"]


@pytest.mark.parametrize("kind", ["typing", "mark_read", "reaction"])
def test_of_what_the_provider_keeps_nothing_nothing_is_awaited(kind: str, desk: Desk[State]) -> None:
    """The provider gave no id: no receipt can name it."""
    turn(desk, begun(about={"kind": kind, "text": ""}), said(SENT, provider_message_id=None))
    assert desk.rows("awaiting") == {}
    assert turn(desk, at=5 * HOUR).outputs == []


def test_a_delivery_that_was_never_sent_does_not_stall(desk: Desk[State]) -> None:
    turn(desk, begun(), said(PENDING, cause=Cause.RETRY_LATER))
    assert turn(desk, at=5 * HOUR).outputs == []


def test_the_label_is_forgotten_with_the_delivery(desk: Desk[State]) -> None:
    turn(desk, begun(), said(SENT))
    turn(desk, at=HOUR)
    assert desk.rows("stalled")
    turn(desk, at=HOUR + STATE_MS + 60_000)
    assert not any(desk.rows(name) for name in ("timelines", "stalled", "awaiting"))
    assert desk.due() is None


def test_a_restart_changes_nothing(desk: Desk[State]) -> None:
    turn(desk, begun(), said(SENT))
    desk.restart(new_stage())
    assert desk.due() == NOW + HOUR
    assert len(turn(desk, at=HOUR).outputs) == 1


def test_what_stalls_at_once_is_labelled_a_bounded_number_a_turn(desk: Desk[State]) -> None:
    number = EXPIRED_PER_TURN + 5
    for n in range(1, number + 1, 1000):
        some = range(n, min(n + 1000, number + 1))
        turn(desk, *(begun(k) for k in some), *(said(SENT, 0, k) for k in some))
    assert turn(desk, at=2 * HOUR).counts == {"stalled": EXPIRED_PER_TURN}
    due = desk.due()
    assert due is not None
    assert due <= NOW + 2 * HOUR
    assert turn(desk, at=2 * HOUR).counts == {"stalled": 5}
    assert len(desk.rows("stalled")) == number
