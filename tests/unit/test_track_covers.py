"""Stage track: one receipt for many deliveries. A read of Instagram, and a report of a client, cover what came before in the lane."""

from collections.abc import Sequence
from typing import Any

import pytest

from pipelines import track
from pipelines.engine.stage import Decision, Record
from pipelines.track import Track
from pipelines.track_covers import MOST_COVERED
from pipelines.track_state import State
from schemas import codec, ids
from schemas.records import Cursor, CursorReport, DeliveryState, Direction, Status, StatusUpdate
from tables import timelines
from tests.support.builders import (
    HERE,
    NOW,
    OBSERVED,
    Desk,
    cursor_report,
    decoded,
    numbered,
    record,
    ref,
    refused,
    sequenced,
    update,
)

STATE_MS = 8 * 86_400_000
PENDING, SENT, DELIVERED, READ, FAILED = Status.PENDING, Status.SENT, Status.DELIVERED, Status.READ, Status.FAILED
INSTAGRAM = {"channel": "instagram", "recipient": "555", "address": "555"}
INTERNAL = {"channel": "internal", "account": "app", "recipient": "ana", "address": "ana"}


@pytest.fixture
def desk() -> Desk[State]:
    return Desk(Track(state_ms=STATE_MS, observed=OBSERVED))


def logged(seq: int, **of: Any) -> Record:
    """A message with one delivery, d<seq>."""
    return record("conversation-log", sequenced(ref(f"d{seq}", **of), seq=seq, message_id=f"m{seq}"))


def said(seq: int, status: Status, at: int = 100, **changes: Any) -> Record:
    about = {"delivery_id": f"d{seq}", "status": status, "occurred_at": NOW + at, "observed_at": NOW + at + 5}
    made: StatusUpdate = update(f"{changes.get('delivery_id', seq)}:{status}:{at}", **(about | changes))
    return record("status-updates", made)


def reported(**changes: Any) -> Record:
    return record("cursor-reports", cursor_report(**changes))


def after(desk: Desk[State], *kafka_records: Record) -> Decision:
    return desk.turn(numbered(kafka_records))


def statuses(desk: Desk[State]) -> dict[str, Status]:
    """The status of every delivery, as its row would publish it."""
    return {key.decode(): timelines.status(row) for key, row in desk.rows("timelines").items()}


def some_sent(desk: Desk[State], seqs: Sequence[int], **of: Any) -> None:
    after(desk, *(logged(seq, **of) for seq in seqs), *(said(seq, SENT, seq) for seq in seqs))


# --- a channel's watermark ----------------------------------------------------------------------------------------------


def test_a_read_of_instagram_moves_what_came_before(desk: Desk[State]) -> None:
    some_sent(desk, [1, 2, 3, 4], **INSTAGRAM)
    decision = after(desk, said(3, READ, 500))
    assert statuses(desk) == {"d1": READ, "d2": READ, "d3": READ, "d4": SENT}
    assert decision.counts["covered"] == 2
    row = desk.rows("timelines")[b"d1"]
    assert (row.version, row.read_at, row.covered_read_at) == (3, None, NOW + 500)
    (cursor,) = decoded(decision.outputs, "cursors", Cursor)
    assert (cursor.last_delivered_seq, cursor.last_read_seq) == (None, 3)
    again = after(desk, said(2, READ, 700))
    assert "covered" not in again.counts, "the read of a later one said more"


def test_a_covered_delivery_had_no_attempt_of_the_later_one(desk: Desk[State]) -> None:
    some_sent(desk, [1, 2], **INSTAGRAM)
    states = decoded(after(desk, said(2, READ, 500, attempt=3)).outputs, "delivery-states", DeliveryState)
    assert {each.delivery_id: (each.attempt, each.reported, each.attempts) for each in states} == {
        "d1": (0, "READ", 0),
        "d2": (3, "READ", 3),
    }


@pytest.mark.parametrize("channel", ["whatsapp", "internal", "telegram"])
def test_a_read_of_another_channel_moves_one_delivery(channel: str, desk: Desk[State]) -> None:
    some_sent(desk, [1, 2], channel=channel)
    after(desk, said(2, READ, 500))
    assert statuses(desk) == {"d1": SENT, "d2": READ}


def test_a_read_that_is_only_inferred_covers_nothing(desk: Desk[State]) -> None:
    some_sent(desk, [1, 2], **INSTAGRAM)
    after(desk, said(2, READ, 500, inferred=True))
    assert statuses(desk) == {"d1": SENT, "d2": READ}


def test_what_is_sent_later_than_a_receipt_covered_it_is_read_at_once(desk: Desk[State]) -> None:
    """The receipt came before our own news that the message was sent."""
    after(desk, logged(1, **INSTAGRAM), logged(2, **INSTAGRAM), said(2, READ, 500))
    assert statuses(desk) == {"d1": PENDING, "d2": READ}
    assert desk.rows("timelines")[b"d1"].version == 1, "nothing was published of it"
    desk.restart(Track(state_ms=STATE_MS, observed=OBSERVED))
    after(desk, said(1, SENT, 400))
    assert statuses(desk) == {"d1": READ, "d2": READ}


def test_a_delivery_that_failed_before_it_was_sent_is_not_covered(desk: Desk[State]) -> None:
    after(desk, logged(1, **INSTAGRAM), logged(2, **INSTAGRAM), said(1, FAILED, 50), said(2, READ, 500))
    assert statuses(desk) == {"d1": FAILED, "d2": READ}
    assert desk.rows("timelines")[b"d1"].version == 2


def test_a_failure_that_a_covering_receipt_disproves_is_an_anomaly(desk: Desk[State]) -> None:
    """Also when the receipt came first and the proof that the message was sent came last."""
    some_sent(desk, [1, 2], **INSTAGRAM)
    decision = after(desk, said(1, FAILED, 200), said(2, READ, 500))
    last = decoded(decision.outputs, "delivery-states", DeliveryState)[-1]
    assert (last.delivery_id, last.status, last.anomaly, last.failed_at) == ("d1", READ, "READ after FAILED", None)
    assert decision.counts["anomaly"] == 1
    other = Desk(Track(state_ms=STATE_MS, observed=OBSERVED))
    after(other, logged(1, **INSTAGRAM), logged(2, **INSTAGRAM), said(1, FAILED, 200), said(2, READ, 500))
    (last,) = decoded(after(other, said(1, SENT, 100)).outputs, "delivery-states", DeliveryState)
    assert (last.status, last.anomaly) == (READ, "READ after FAILED")


def test_a_delivery_for_later_is_covered_by_what_was_read_after_its_time_only() -> None:
    """Sequence 3 is sent at a later moment, when 4 was read long ago; in both orders of the receipts."""
    reads = [said(4, READ, 500), said(6, READ, 5000)]
    later = sequenced(ref("d3", **INSTAGRAM), seq=3, message_id="m3", not_before=NOW + 2000)
    for order in (reads, reads[::-1]):
        desk = Desk(Track(state_ms=STATE_MS, observed=OBSERVED))
        some_sent(desk, [1, 2], **INSTAGRAM)
        after(desk, record("conversation-log", later))
        some_sent(desk, [4, 5, 6], **INSTAGRAM)
        for one in order:
            after(desk, one)
        assert statuses(desk)["d3"] is PENDING
        after(desk, said(3, SENT, 2010))
        assert statuses(desk) == dict.fromkeys(("d1", "d2", "d3", "d4", "d5", "d6"), READ)
        rows = desk.rows("timelines")
        assert [rows[b"d%d" % n].covered_read_at for n in range(1, 6)] == [
            NOW + at for at in (500, 500, 5000, 5000, 5000)
        ]
    desk = Desk(Track(state_ms=STATE_MS, observed=OBSERVED))
    after(desk, record("conversation-log", later))
    some_sent(desk, [4], **INSTAGRAM)
    after(desk, said(4, READ, 500))
    after(desk, said(3, SENT, 2010))
    assert statuses(desk) == {"d3": SENT, "d4": READ}


def test_other_lanes_stay_as_they_are(desk: Desk[State]) -> None:
    """Of another address, account and channel of the same conversation."""
    lanes = [
        INSTAGRAM | {"address": "557"},
        INSTAGRAM | {"address": "556", "recipient": "556"},
        INSTAGRAM | {"account": "acc-2"},
        INSTAGRAM | {"channel": "whatsapp"},
    ]
    for seq, lane in enumerate(lanes, 1):
        some_sent(desk, [seq], **lane)
    some_sent(desk, [5, 6], **INSTAGRAM)
    after(desk, said(6, READ, 500))
    assert statuses(desk) == {"d1": SENT, "d2": SENT, "d3": SENT, "d4": SENT, "d5": READ, "d6": READ}


def test_a_lane_is_of_the_address_whoever_it_is_named_for(desk: Desk[State]) -> None:
    """The first message named the address alone, the second another user: the same person read all three."""
    some_sent(desk, [1], **(INSTAGRAM | {"recipient": INSTAGRAM["address"]}))
    some_sent(desk, [2], **(INSTAGRAM | {"recipient": "bia"}))
    some_sent(desk, [3], **(INSTAGRAM | {"recipient": "caio"}))
    after(desk, said(3, READ, 500))
    assert statuses(desk) == {"d1": READ, "d2": READ, "d3": READ}


def test_a_read_in_a_group_covers_the_reader_alone(desk: Desk[State]) -> None:
    people = ("ana", "bia")
    of_id = {
        (seq, who): ids.delivery_id("default", HERE, f"m{seq}", who, "instagram", who)
        for seq in (1, 2)
        for who in people
    }
    of = {who: {"channel": "instagram", "recipient": who, "address": who} for who in people}
    for seq in (1, 2):
        log = sequenced(*(ref(of_id[seq, who], **of[who]) for who in people), seq=seq, message_id=f"m{seq}")
        after(
            desk,
            record("conversation-log", log),
            *(said(seq, SENT, delivery_id=of_id[seq, who]) for who in people),
        )
    after(desk, said(2, READ, 500, delivery_id=of_id[2, "ana"]))
    found = statuses(desk)
    assert [found[of_id[1, who]] for who in people] == [READ, SENT]
    assert [found[of_id[2, who]] for who in people] == [READ, SENT]


def test_two_orders_of_two_reads_end_alike(desk: Desk[State]) -> None:
    other = Desk(Track(state_ms=STATE_MS, observed=OBSERVED))
    reads = [said(2, READ, 900), said(4, READ, 500)]
    for each, order in ((desk, reads), (other, reads[::-1])):
        some_sent(each, [1, 2, 3, 4], **INSTAGRAM)
        for one in order:
            after(each, one)
    for key, row in desk.rows("timelines").items():
        assert row.covered_read_at == other.rows("timelines")[key].covered_read_at
    assert [desk.rows("timelines")[b"d%d" % n].covered_read_at for n in (1, 2, 3)] == [NOW + 500] * 3


def test_one_receipt_looks_at_a_bounded_number_and_continues_through_kafka(desk: Desk[State]) -> None:
    newest = 2 * MOST_COVERED + 10
    some_sent(desk, range(1, newest + 1), **INSTAGRAM)
    pending: list[Record] = [said(newest, READ, 10**6)]
    covered, turns = [], 0
    while pending:
        decision = after(desk, *pending)
        covered.append(decision.counts["covered"])
        reports = [output for output in decision.outputs if output.topic == "cursor-reports"]
        assert all(output.partition == 0 for output in reports)
        pending = [record("cursor-reports", codec.decode(output.value, CursorReport)) for output in reports]
        desk.restart(Track(state_ms=STATE_MS, observed=OBSERVED))
        turns += 1
    assert (turns, covered) == (3, [MOST_COVERED, MOST_COVERED, 9])
    assert set(statuses(desk).values()) == {READ}


def test_the_receipts_of_one_turn_cover_a_bounded_number(desk: Desk[State], monkeypatch: pytest.MonkeyPatch) -> None:
    """Many people who had much to read, all at once, after an outage: the turn must not take seconds."""
    monkeypatch.setattr(track, "COVERED_PER_TURN", 20)
    lanes = [INSTAGRAM | {"address": f"a{n}", "recipient": f"a{n}"} for n in range(9)]
    for n, lane in enumerate(lanes):
        some_sent(desk, range(n * 10 + 1, n * 10 + 11), **lane)
    pending = [said(n * 10 + 10, READ, 500) for n in range(len(lanes))]
    turns, most = 0, 0
    while pending:
        decision = after(desk, *pending)
        most = max(most, decision.counts.get("covered", 0))
        reports = [output for output in decision.outputs if output.topic == "cursor-reports"]
        pending = [record("cursor-reports", codec.decode(output.value, CursorReport)) for output in reports]
        turns += 1
    assert set(statuses(desk).values()) == {READ}
    assert (turns, most) == (3, 27)


# --- reports of clients -------------------------------------------------------------------------------------------------


def test_a_report_moves_delivered_and_read_at_once(desk: Desk[State]) -> None:
    some_sent(desk, [1, 2, 3, 4], **INTERNAL)
    decision = after(desk, reported(delivered_up_to=3, read_up_to=2, occurred_at=NOW + 500, observed_at=NOW + 600))
    assert statuses(desk) == {"d1": READ, "d2": READ, "d3": DELIVERED, "d4": SENT}
    newest = decoded(decision.outputs, "cursors", Cursor)[-1]
    assert (newest.last_delivered_seq, newest.last_read_seq) == (3, 2)


def test_a_report_beyond_the_newest_message_counts_as_the_newest(desk: Desk[State]) -> None:
    some_sent(desk, [1, 2], **INTERNAL)
    decision = after(desk, reported(read_up_to=2**53))
    assert (statuses(desk), decision.counts["report_clamped"]) == ({"d1": READ, "d2": READ}, 1)
    some_sent(desk, [3], **INTERNAL)
    assert statuses(desk)["d3"] is SENT, "it was not there when the client spoke"


def test_a_report_that_goes_back_changes_nothing_and_is_counted(desk: Desk[State]) -> None:
    some_sent(desk, [1, 2, 3], **INTERNAL)
    after(desk, reported(read_up_to=3, occurred_at=NOW, observed_at=NOW))
    before = {name: dict(rows) for name, rows in desk.changelog.items()}
    later = {"occurred_at": NOW + 900, "observed_at": NOW + 900}
    decision = after(
        desk, reported(event_id="r2", read_up_to=1, **later), reported(event_id="r3", read_up_to=0, **later)
    )
    assert (decision.outputs, decision.counts) == ([], {"report_backwards": 2})
    decision = after(desk, reported(event_id="r4", read_up_to=3, **later))
    assert (decision.outputs, decision.counts) == ([], {"report_repeated": 1})
    assert desk.changelog == before


@pytest.mark.parametrize(
    "stranger", [{"address": "bia"}, {"channel": "whatsapp"}, {"conversation_id": "another"}, {"tenant_id": "acme"}]
)
def test_a_report_of_somebody_to_whom_nothing_is_delivered_is_counted(
    stranger: dict[str, str], desk: Desk[State]
) -> None:
    some_sent(desk, [1], **(INTERNAL | {"recipient": "user-1"}))
    decision = after(desk, reported(**stranger))
    assert (decision.outputs, decision.refusals, decision.counts) == ([], [], {"report_unknown": 1})


def test_a_report_before_any_message_covers_none(desk: Desk[State]) -> None:
    assert after(desk, reported(read_up_to=5)).counts == {"report_unknown": 1}
    some_sent(desk, [1], **INTERNAL)
    assert statuses(desk) == {"d1": SENT}


def test_a_report_on_another_account_moves_none(desk: Desk[State]) -> None:
    some_sent(desk, [1], **INTERNAL)
    assert after(desk, reported(account="acc-2")).outputs == []
    assert statuses(desk) == {"d1": SENT}


def test_a_report_in_the_wrong_partition_is_refused(desk: Desk[State]) -> None:
    some_sent(desk, [1], **INTERNAL)
    decision = after(desk, reported(home_partition=3))
    assert refused(decision) == ["wrong_partition"]
    assert "partition 3" in decision.refusals[0].detail
    assert statuses(desk) == {"d1": SENT}


def test_a_member_is_known_by_the_address_of_a_user_id(desk: Desk[State]) -> None:
    some_sent(desk, [1, 2], **(INTERNAL | {"recipient": "user-1"}))
    decision = after(desk, reported(read_up_to=2))
    assert statuses(desk) == {"d1": READ, "d2": READ}
    assert [each.member for each in decoded(decision.outputs, "cursors", Cursor)][-1:] == ["user-1"]


def test_a_report_passes_over_signals_and_messages_of_people(desk: Desk[State]) -> None:
    typing = sequenced(ref("d2", **INTERNAL), seq=2, message_id="m2", kind="typing", text="")
    theirs = sequenced(seq=3, message_id="m3", direction=Direction.INBOUND, sender="bia")
    some_sent(desk, [1], **INTERNAL)
    after(desk, record("conversation-log", typing), record("conversation-log", theirs), said(2, SENT, 2))
    some_sent(desk, [4], **INTERNAL)
    after(desk, reported(read_up_to=4))
    assert statuses(desk) == {"d1": READ, "d2": SENT, "d4": READ}


# --- times that cannot be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 999, NOW + 365 * 86_400_000], ids=["1970", "1970 and a second", "next year"])
def test_receipts_with_an_odd_date_move_the_status_and_survive_a_restart(at: int, desk: Desk[State]) -> None:
    some_sent(desk, [1, 2], **INSTAGRAM)
    after(desk, said(2, READ, occurred_at=at))
    desk.restart(Track(state_ms=STATE_MS, observed=OBSERVED))
    assert statuses(desk) == {"d1": READ, "d2": READ}
    row = desk.rows("timelines")[b"d1"]
    assert row.covered_read_at == min(at, NOW + 105), "not after we learned of it"
    assert row.updated_at < NOW + 86_400_000, "how long it is kept follows from our clock"
    after(desk, said(1, READ, 700), said(2, DELIVERED, 700))
    assert statuses(desk) == {"d1": READ, "d2": READ}
