"""Tables `messages` and `message_states`: how far each message has come, from the transitions of its deliveries."""

import itertools
from collections import Counter

import pytest

from pipelines.engine.stage import Record
from pipelines.track import Track
from pipelines.track_state import State
from schemas.records import Direction, Status
from tables import messages
from tables.messages import MESSAGE_STATES, MESSAGES, ORDER, RANKED, LoggedMessage, MessageState, sequence_key
from tests.support.builders import HERE, NOW, OBSERVED, Desk, numbered, record, ref, sequenced, update

STATE_MS = 8 * 86_400_000
PENDING, SENT, DELIVERED, READ, FAILED = Status.PENDING, Status.SENT, Status.DELIVERED, Status.READ, Status.FAILED
KEY = sequence_key("default", HERE, 1)


@pytest.fixture
def desk() -> Desk[State]:
    return Desk(Track(state_ms=STATE_MS, observed=OBSERVED))


def a_group(number: int, **changes: object) -> Record:
    refs = (ref(f"d{n}", recipient=f"user-{n}", address=f"a{n}") for n in range(number))
    return record("conversation-log", sequenced(*refs, **changes))


def said(number: int, status: Status, at: int = 100) -> Record:
    about = {"delivery_id": f"d{number}", "status": status, "occurred_at": NOW + at, "observed_at": NOW + at}
    return record("status-updates", update(f"d{number}:{status}:{at}", **about))


def counted(desk: Desk[State], key: bytes = KEY) -> dict[Status, int]:
    row = desk.rows("message_states")[key]
    return {status: number for status, number in zip(ORDER, row.counts, strict=True) if number}


def test_a_message_to_several_is_counted_by_status(desk: Desk[State]) -> None:
    desk.turn([a_group(4)])
    assert counted(desk) == {PENDING: 4}
    desk.turn(
        numbered([said(0, SENT), said(1, READ), said(2, FAILED), said(0, DELIVERED, 200), said(0, DELIVERED, 200)])
    )
    assert counted(desk) == {PENDING: 1, DELIVERED: 1, READ: 1, FAILED: 1}
    desk.turn(numbered([said(2, DELIVERED, 300), said(3, SENT)]))
    assert counted(desk) == {DELIVERED: 2, READ: 1, SENT: 1}
    assert desk.rows("message_states")[KEY].updated_at == NOW + 100, "when its newest change was observed"


def test_one_receipt_writes_one_row_however_many_members_there_are(desk: Desk[State]) -> None:
    desk.turn([a_group(1000)])
    desk.decide([said(500, DELIVERED)])
    written = Counter({name: len(table.changes()) for name, table in desk.tables.items() if table.changes()})
    assert written == {"timelines": 1, "cursors": 1, "message_states": 1}
    assert len(MESSAGE_STATES.encode(desk.rows("message_states")[KEY])) < 300


def test_a_message_to_one_and_a_message_of_a_person_have_no_state_of_their_own(desk: Desk[State]) -> None:
    theirs = sequenced(seq=2, message_id="m2", direction=Direction.INBOUND, sender="15550001")
    desk.turn(
        numbered([record("conversation-log", sequenced(ref("d0"))), record("conversation-log", theirs), said(0, READ)])
    )
    assert desk.rows("message_states") == {}
    assert [row.seq for row in desk.rows("messages").values()] == [1, 2]
    assert desk.rows("messages")[KEY].delivery_ids == ("d0",)


def test_updates_before_the_log_are_counted_once(desk: Desk[State]) -> None:
    desk.turn(numbered([said(1, SENT), said(1, READ, 300)]))
    desk.turn([a_group(2)])
    desk.turn([a_group(2)])
    assert counted(desk) == {PENDING: 1, READ: 1}


def test_two_tenants_and_two_conversations_keep_apart(desk: Desk[State]) -> None:
    desk.turn([a_group(2)])
    refs = (ref(f"x{n}", recipient=f"user-{n}", address=f"a{n}") for n in range(3))
    desk.turn([record("conversation-log", sequenced(*refs, tenant_id="acme"))])
    desk.turn([said(0, SENT)])
    assert counted(desk) == {PENDING: 1, SENT: 1}
    assert counted(desk, sequence_key("acme", HERE, 1)) == {PENDING: 3}
    assert sequence_key("acme", "c/1", 2) != sequence_key("acme", "c", 12)


def test_a_message_is_forgotten_after_the_state_window(desk: Desk[State]) -> None:
    desk.turn([a_group(2)])
    assert len(desk.rows("messages")) == len(desk.rows("message_states")) == 1
    desk.turn(now=NOW + STATE_MS + 60_000)
    assert (desk.rows("messages"), desk.rows("message_states")) == ({}, {})
    assert desk.due() is None


def test_a_message_for_later_is_kept_from_its_time_on(desk: Desk[State]) -> None:
    day = 86_400_000
    desk.turn([a_group(2, not_before=NOW + 30 * day)])
    desk.turn(now=NOW + 30 * day + STATE_MS - 1)
    assert counted(desk) == {PENDING: 2}
    desk.turn(now=NOW + 30 * day + STATE_MS + 60_000)
    assert desk.rows("message_states") == {}


SUMMARIES = {
    "nothing": ({}, (0, None, None, "none none none none")),
    "all waiting": ({PENDING: 3}, (3, PENDING, PENDING, "none none none none")),
    "some sent": ({PENDING: 1, SENT: 2}, (3, PENDING, SENT, "some none none none")),
    "all read": ({READ: 2}, (2, READ, READ, "all all all none")),
    "one failed": ({READ: 1, FAILED: 1}, (2, FAILED, READ, "some some some some")),
    "all failed, in two ways": ({FAILED: 1, Status.EXPIRED: 1}, (2, FAILED, Status.EXPIRED, "none none none all")),
    "all arrived, one read": ({READ: 1, DELIVERED: 1}, (2, DELIVERED, READ, "all all some none")),
}


@pytest.mark.parametrize(("counts", "expected"), SUMMARIES.values(), ids=SUMMARIES)
def test_a_summary_says_how_much_has_come_how_far(
    counts: dict[Status, int], expected: tuple[int, Status | None, Status | None, str]
) -> None:
    found = messages.summary(counts)
    words = " ".join(found[name] for name in ("sent", "delivered", "read", "failed"))
    assert (found["deliveries"], found["worst"], found["best"], words) == expected
    assert found["by_status"] == counts


def test_every_status_has_a_rank() -> None:
    assert set(RANKED) == set(ORDER) == set(Status)


def test_moving_there_and_back_changes_no_count() -> None:
    state = MessageState("t", "c", "m", 1, messages.pending(5), NOW)
    for one, other in itertools.permutations(Status, 2):
        there = messages.moved(messages.moved(state, PENDING, one, 1), one, other, 2)
        assert sum(there.counts) == 5
        assert messages.moved(there, other, PENDING, NOW).counts == state.counts


def test_rows_are_read_from_their_bytes_and_the_views_show_a_summary() -> None:
    logged = LoggedMessage("t", "c", "m", 1, "OUTBOUND", "text", NOW, NOW, ("d1", "d2"))
    assert MESSAGES.decode(MESSAGES.encode(logged)) == logged
    state = MessageState("t", "c", "m", 1, messages.pending(2), NOW)
    assert MESSAGE_STATES.decode(MESSAGE_STATES.encode(state)) == state
    assert MESSAGE_STATES.as_json(state)["summary"]["by_status"] == {"PENDING": 2}
