"""Stage archive: what one turn writes, and how positions move from batch to batch."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest

from pipelines.archive import Archive, Writes
from pipelines.engine.stage import Decision, Record
from pipelines.postgres_stage import State
from schemas import metrics
from schemas.records import Cursor, DeliveryState, SequencedMessage
from sinks.postgres import PostgresArchive as Sink
from sinks.postgres_sink import nothing
from sinks.sink_errors import SinkFenced, Unavailable
from sinks.staging import MembersRow
from tables.cursors import cursor_key
from tests.support.builders import Desk, cursor, delivery_state, raw, record, ref, refused, sequenced

Source = tuple[str, int]
LOG, STATES = "conversation-log", "delivery-states"


class Ledger(Sink):
    """A sink in memory with PostgreSQL's rule of positions; it is unavailable for `outages` writes."""

    def __init__(self, held: Mapping[Source, int] | None = None, outages: int = 0) -> None:
        super().__init__("postgresql://127.0.0.1:1/none")
        self.held = dict(held or {})
        self.outages = outages
        self.set_aside: set[str] = set()
        self.known: set[str] = set()
        self.rows: list[str] = []
        self.groups: list[list[Source]] = []  # the sources of each successful write

    async def positions(self, partitions: Iterable[Source]) -> dict[Source, int]:
        return {source: self.held.setdefault(source, 0) for source in partitions}

    async def write(
        self,
        *,
        messages: Sequence[SequencedMessage],
        states: Sequence[DeliveryState],
        cursors: Sequence[Cursor] = (),
        members: Sequence[MembersRow] = (),
        offsets: Mapping[Source, tuple[int, int]],
        sent: Callable[[], None] = nothing,
    ) -> None:
        sent()
        if self.outages:
            self.outages -= 1
            raise Unavailable("unavailable")
        for source, (expected, _) in offsets.items():
            if self.held[source] != expected:
                raise SinkFenced(f"{source} is at {self.held[source]}")
        self.held |= {source: after for source, (_, after) in offsets.items()}
        self.groups.append(sorted(offsets))
        self.conflicts += sum(message.message_id in self.set_aside for message in messages)
        self.reused += sum(message.message_id in self.known for message in messages)
        self.rows += [each.message_id for each in messages] + [each.event_id for each in states]
        self.rows += [f"{each.member} {each.version}" for each in cursors]
        self.rows += [f"{each.conversation_id} {'+'.join(each.members)}" for each in members]


def logged(offset: int, partition: int = 0) -> Record:
    return record(LOG, sequenced(ref(), message_id=f"m{offset}"), offset=offset, partition=partition)


def stated(offset: int, partition: int = 0) -> Record:
    return record(STATES, delivery_state(f"e{offset}"), offset=offset, partition=partition)


def of(decision: Decision) -> tuple[list[str], list[str], dict[Source, int]]:
    writes: Writes = decision.writes
    return [m.message_id for m in writes.messages], [s.event_id for s in writes.states], writes.ends


@pytest.fixture
def desk() -> Desk[State]:
    return Desk(Archive(sink=Ledger(), linger_ms=0))


def test_a_turn_writes_both_topics_and_how_far_each_reaches(desk: Desk[State]) -> None:
    decision = desk.turn([logged(3), stated(8), logged(4), stated(11)])
    assert of(decision) == (["m3", "m4"], ["e8", "e11"], {(LOG, 0): 5, (STATES, 0): 12})
    assert (decision.outputs, decision.calls, decision.offsets) == ([], [], {})


BAD = {
    "not ours": raw(STATES, b"junk", offset=12),
    "ours, on another topic": record(STATES, sequenced(), offset=12),
    "no value": raw(STATES, None, offset=12),
}


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"last_read_seq": 3}, "cursor_out_of_order"),
        ({"last_delivered_seq": 4}, "cursor_out_of_order"),
        ({"last_delivered_seq": None, "last_read_seq": 4}, "cursor_out_of_order"),
        ({"member": "somebody else"}, "wrong_key"),
    ],
)
def test_a_cursor_that_cannot_be_is_refused_alone(desk: Desk[State], changes: dict[str, Any], cause: str) -> None:
    good = cursor()
    key = cursor_key(good.tenant_id, good.conversation_id, good.member).encode()
    bad = record("cursors", cursor(**changes))._replace(key=key)
    decision = desk.turn([bad, record("cursors", good, offset=1)._replace(key=key)])
    assert refused(decision) == [cause]
    assert decision.writes.cursors == [good]
    assert decision.writes.ends == {("cursors", 0): 2}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_refused_and_passed(bad: Record, desk: Desk[State]) -> None:
    decision = desk.turn([stated(11), bad])
    assert len(refused(decision)) == 1
    assert of(decision) == ([], ["e11"], {(STATES, 0): 13}), "otherwise it would be read again for ever"


def test_an_empty_turn_writes_nothing(desk: Desk[State]) -> None:
    assert of(desk.turn()) == ([], [], {})
    assert desk.due() is None


async def test_positions_move_from_where_postgresql_is_batch_after_batch() -> None:
    ledger = Ledger({(STATES, 0): 8, (STATES, 1): 3})
    stage = Archive(sink=ledger, linger_ms=0)
    assert await stage.positions([(STATES, 0), (STATES, 1), (LOG, 0)]) == {(STATES, 0): 8, (STATES, 1): 3, (LOG, 0): 0}
    one, other = Desk(stage, 0), Desk(stage, 1)
    await stage.write(one.turn([stated(8), logged(0)]))
    await stage.write(other.turn([stated(3, 1)]))
    await stage.write(one.turn([stated(9)]))
    await stage.write(one.turn())
    assert ledger.held == {(STATES, 0): 10, (STATES, 1): 4, (LOG, 0): 1}
    assert ledger.rows == ["m0", "e8", "e3", "e9"]


async def test_all_partitions_that_wait_are_one_write_with_a_position_of_each() -> None:
    ledger = Ledger({(STATES, 0): 8, (STATES, 1): 3})
    stage = Archive(sink=ledger, linger_ms=0)
    await stage.positions([(STATES, 0), (STATES, 1), (LOG, 1)])
    turns = [Desk(stage, 0).turn([stated(8)]), Desk(stage, 1).turn([stated(3, 1), logged(0, 1)])]
    await asyncio.gather(*map(stage.write, turns))
    assert ledger.groups == [[(LOG, 1), (STATES, 0), (STATES, 1)]]
    assert ledger.held == {(STATES, 0): 9, (STATES, 1): 4, (LOG, 1): 1}
    assert sorted(ledger.rows) == ["e3", "e8", "m0"]


async def test_only_the_fenced_write_fails_and_the_others_of_the_group_are_written() -> None:
    ledger = Ledger()
    stage = Archive(sink=ledger, linger_ms=0)
    await stage.positions([(STATES, number) for number in range(3)])
    ledger.held[STATES, 1] = 5  # the next owner has written
    turns = [Desk(stage, number).turn([stated(0, number)]) for number in range(3)]
    outcomes = await asyncio.gather(*map(stage.write, turns), return_exceptions=True)
    assert [type(each) for each in outcomes] == [type(None), SinkFenced, type(None)]
    assert ledger.held == {(STATES, 0): 1, (STATES, 1): 5, (STATES, 2): 1}
    await stage.write(Desk(stage, 2).turn([stated(1, 2)]))
    assert ledger.held[STATES, 2] == 2


async def test_partitions_begin_their_turns_when_the_next_transaction_is_due() -> None:
    stage = Archive(sink=Ledger(), linger_ms=60_000)
    await stage.positions([(STATES, 0), (STATES, 1)])
    assert stage.turn_delay(0) == 0, "after a pause no partition waits"
    await stage.write(Desk(stage, 0).turn([stated(0)]))
    assert 50 < stage.turn_delay(0) == pytest.approx(stage.turn_delay(1), abs=1)


async def test_partitions_that_are_assigned_later_leave_the_others_unchanged() -> None:
    ledger = Ledger({(STATES, 0): 8})
    stage = Archive(sink=ledger, linger_ms=0)
    await stage.positions([(STATES, 0)])
    assert await stage.positions([(STATES, 1)]) == {(STATES, 1): 0}
    await stage.write(Desk(stage, 0).turn([stated(8)]))
    assert ledger.held == {(STATES, 0): 9, (STATES, 1): 0}


async def test_messages_set_aside_are_counted_once() -> None:
    ledger = Ledger()
    ledger.set_aside = {"m1", "m2"}
    stage = Archive(sink=ledger, linger_ms=0)
    await stage.positions([(LOG, 0), (LOG, 1)])
    counter = metrics.EVENTS.labels("archive", "conflict")
    before = counter._value.get()
    for partition, offsets in ((0, (0, 1, 2)), (0, (3,)), (1, (1,))):
        await stage.write(Desk(stage, partition).turn([logged(offset, partition) for offset in offsets]))
    assert counter._value.get() - before == 3


async def test_reused_ids_are_counted_once() -> None:
    ledger = Ledger()
    ledger.known = {"m1"}
    stage = Archive(sink=ledger, linger_ms=0)
    await stage.positions([(LOG, 0), (LOG, 1)])
    counter = metrics.EVENTS.labels("archive", "message_id_reused")
    before = counter._value.get()
    for partition in (0, 1):
        await stage.write(Desk(stage, partition).turn([logged(0, partition), logged(1, partition)]))
    assert counter._value.get() - before == 2


async def test_an_unavailable_postgresql_is_retried_and_takes_the_batch_once() -> None:
    ledger = Ledger(outages=1)
    stage = Archive(sink=ledger, linger_ms=0)
    await stage.positions([(STATES, 0)])
    await stage.write(Desk(stage).turn([stated(0)]))
    assert (ledger.rows, ledger.held) == (["e0"], {(STATES, 0): 1})


async def test_the_write_of_a_fenced_owner_raises() -> None:
    ledger = Ledger()
    stage = Archive(sink=ledger, linger_ms=0)
    await stage.positions([(STATES, 0)])
    ledger.held[STATES, 0] = 5  # the next owner has written
    with pytest.raises(SinkFenced):
        await stage.write(Desk(stage).turn([stated(0)]))
    assert not ledger.rows
