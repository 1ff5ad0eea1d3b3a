"""Stage track's cursors: whatever order, repetition and loss of updates, they end as the reference says and never go back."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.stage import Record
from pipelines.track import Track
from pipelines.track_state import State
from schemas.records import Cause, Cursor, Direction, Status
from tables.cursors import cursor_key
from tests.support.builders import (
    HERE,
    NOW,
    OBSERVED,
    Desk,
    decoded,
    examples,
    numbered,
    record,
    ref,
    sequenced,
    update,
)
from tests.support.cursor_reference import DELIVERED, FAILED, READ, SENT, Reference

STATE_MS = 8 * 86_400_000
MEMBERS = {"ana": "whatsapp", "bia": "instagram", "caio": "telegram"}
STATUS = {SENT: Status.SENT, DELIVERED: Status.DELIVERED, READ: Status.READ, FAILED: Status.FAILED}
SEEN_ON = {
    "whatsapp": (SENT, DELIVERED, READ, FAILED),
    "instagram": (SENT, READ, FAILED),
    "telegram": (SENT, FAILED),
}


def new_desk() -> Desk[State]:
    return Desk(Track(state_ms=STATE_MS, observed=OBSERVED))


@st.composite
def happenings(draw: st.DrawFn) -> tuple[list[list[str]], list[tuple[str, str]]]:
    """The members of each message, and what is reported of which delivery, some of it twice."""
    messages = draw(
        st.lists(st.lists(st.sampled_from(sorted(MEMBERS)), unique=True, min_size=1), min_size=1, max_size=12)
    )
    reports = [
        (f"{number}-{member}", what)
        for number, members in enumerate(messages, 1)
        for member in members
        for what in draw(st.lists(st.sampled_from(SEEN_ON[MEMBERS[member]]), max_size=3))
    ]
    return messages, draw(st.permutations(reports + reports[:5]))


@examples(150)
@given(happened=happenings(), data=st.data())
def test_cursors_end_as_the_reference_says_and_never_go_back(
    happened: tuple[list[list[str]], list[tuple[str, str]]], data: st.DataObject
) -> None:
    messages, reports = happened
    batch: list[Record] = [
        record(
            "conversation-log",
            sequenced(
                *(ref(f"{number}-{m}", channel=MEMBERS[m], recipient=m, address=m) for m in members),
                seq=number, message_id=f"m{number}",
            ),
        )
        for number, members in enumerate(messages, 1)
    ]  # fmt: skip  # one message a record
    for delivery_id, what in reports:
        event = f"{delivery_id}:{what}"
        said = update(event, delivery_id=delivery_id, status=STATUS[what], cause=Cause.RECEIPT)
        batch.insert(data.draw(st.integers(0, len(batch)), label="place"), record("status-updates", said))
    desk, published = new_desk(), defaultdict[str, list[Cursor]](list)
    batch = numbered(batch)
    while batch:
        size = data.draw(st.integers(1, len(batch)), label="size of the turn")
        for each in decoded(desk.turn(batch[:size]).outputs, "cursors", Cursor):
            published[each.member].append(each)
        if data.draw(st.booleans(), label="restart"):
            desk.restart(Track(state_ms=STATE_MS, observed=OBSERVED))
        batch = batch[size:]
    for member in MEMBERS:
        check(published[member])
        reference = referred(member, messages, set(reports))
        row = desk.rows("cursors").get(cursor_key("default", HERE, member).encode())
        if row is None:
            assert not reference.channels
            continue
        assert (row.last_delivered_seq, row.last_read_seq) == (reference.delivered(), reference.read())
        if published[member]:
            newest = published[member][-1]
            assert (newest.last_delivered_seq, newest.last_read_seq) == (row.last_delivered_seq, row.last_read_seq)


def referred(member: str, messages: list[list[str]], reports: set[tuple[str, str]]) -> Reference:
    seqs = [number for number, members in enumerate(messages, 1) if member in members]
    reference = Reference([MEMBERS[member]] * len(seqs), seqs, made=len(seqs))
    for n, seq in enumerate(seqs):
        reference.known[n] |= {what for delivery_id, what in reports if delivery_id == f"{seq}-{member}"}
    return reference


def check(published: list[Cursor]) -> None:
    """On the topic: versions without gaps, no cursor goes back, read <= delivered <= newest."""
    assert [each.version for each in published] == list(range(1, len(published) + 1))
    before = (0, 0)
    for each in published:
        delivered = each.newest_seq if each.last_delivered_seq is None else each.last_delivered_seq
        assert 0 <= (each.last_read_seq or 0) <= delivered <= each.newest_seq
        now = (each.last_delivered_seq or 0, each.last_read_seq or 0)
        assert now[0] >= before[0]
        assert now[1] >= before[1]
        before = now


def test_who_replies_has_read_what_had_arrived() -> None:
    desk = new_desk()
    log = [
        sequenced(ref(f"d{n}", channel="telegram", recipient="5", address="5"), seq=n, message_id=f"m{n}")
        for n in (1, 2, 3)
    ]
    reply = sequenced(seq=4, message_id="m4", direction=Direction.INBOUND, sender="5")
    sent = [update(f"d{n}:s", delivery_id=f"d{n}") for n in (1, 2)]
    desk.turn(
        numbered(
            [*(record("conversation-log", each) for each in log), *(record("status-updates", each) for each in sent)]
        )
    )
    (cursor,) = decoded(desk.turn([record("conversation-log", reply, offset=9)]).outputs, "cursors", Cursor)
    assert (cursor.last_delivered_seq, cursor.last_read_seq, cursor.newest_seq) == (None, 2, 3)
    assert desk.turn([record("conversation-log", reply, offset=10)]).outputs == []


def test_a_signal_holds_up_no_cursor() -> None:
    desk = new_desk()
    typing = sequenced(ref("d1"), seq=1, kind="typing", text="")
    desk.turn(
        [
            record("conversation-log", typing),
            record("conversation-log", sequenced(ref("d2"), seq=2, message_id="m2"), offset=1),
        ]
    )
    (cursor,) = decoded(
        desk.turn([record("status-updates", update("e", delivery_id="d2", status=Status.DELIVERED))]).outputs,
        "cursors",
        Cursor,
    )
    assert (cursor.last_delivered_seq, cursor.last_read_seq) == (2, 0)


def test_a_delivery_that_is_forgotten_holds_up_no_cursor() -> None:
    desk = new_desk()
    log = [
        record("conversation-log", sequenced(ref(f"d{n}"), seq=n, message_id=f"m{n}", accepted_at=NOW + n), offset=n)
        for n in (1, 2)
    ]
    assert desk.turn(
        [
            *log,
            record(
                "status-updates", update("e", delivery_id="d2", status=Status.DELIVERED, observed_at=NOW + STATE_MS)
            ),
        ]
    ).outputs
    (cursor,) = decoded(desk.turn(now=NOW + STATE_MS + 60_002).outputs, "cursors", Cursor)
    assert cursor.last_delivered_seq == 2


def test_a_cursor_that_becomes_known_is_published() -> None:
    """A member of Telegram, of whom nobody knows what has arrived, gets a delivery on WhatsApp."""
    desk = new_desk()
    to = {"recipient": "ana"}
    first = sequenced(ref("d1", channel="telegram", **to), seq=1, message_id="m1")
    assert not decoded(desk.turn([record("conversation-log", first)]).outputs, "cursors", Cursor)
    second = sequenced(ref("d2", channel="whatsapp", **to), seq=2, message_id="m2")
    (cursor,) = decoded(desk.turn([record("conversation-log", second, offset=1)]).outputs, "cursors", Cursor)
    assert (cursor.version, cursor.last_delivered_seq, cursor.last_read_seq, cursor.newest_seq) == (1, 0, 0, 2)
    third = sequenced(ref("d3", channel="whatsapp", **to), seq=3, message_id="m3")
    assert not decoded(desk.turn([record("conversation-log", third, offset=2)]).outputs, "cursors", Cursor)
