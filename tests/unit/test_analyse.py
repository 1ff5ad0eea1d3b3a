"""Stage analyse: every state is inserted once, in batches that are repeated identically after any crash; no offset is committed early."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.analyse import TOPIC, Analyse, Chunk, State
from pipelines.engine.stage import Decision, Record
from schemas.records import SIGNALS, DeliveryState
from sinks.clickhouse import ClickHouseFacts
from sinks.sink_errors import Unavailable
from tests.support.builders import Desk, delivery_state, examples, raw, record, refused

PARTITION = 2
NOWHERE = "http://127.0.0.1:1"


def an_analyse(sink: ClickHouseFacts | None = None) -> Analyse:
    return Analyse(sink=sink or ClickHouseFacts(NOWHERE), linger_ms=0)


def state_record(offset: int) -> Record:
    return record(TOPIC, delivery_state(f"e{offset}"), partition=PARTITION, offset=offset)


def junk_record(offset: int) -> Record:
    return raw(TOPIC, b"junk", partition=PARTITION, offset=offset)


@pytest.fixture
def desk() -> Desk[State]:
    return Desk(an_analyse(), PARTITION)


def inserts(decision: Decision) -> list[tuple[str, list[str]]]:
    chunks: list[Chunk] = decision.writes
    return [(chunk.token, [state.event_id for state in chunk.states]) for chunk in chunks]


def offset_of(decision: Decision) -> int | None:
    return decision.offsets.get((TOPIC, PARTITION))


# --- step by step -------------------------------------------------------------------------------------------------------


def test_a_batch_is_planned_inserted_and_only_then_committed(desk: Desk[State]) -> None:
    assert desk.due() is None
    first = desk.turn([state_record(5), state_record(6), state_record(8)])
    assert inserts(first) == [("delivery-states-2-5-8", ["e5", "e6", "e8"])]
    assert offset_of(first) == 5, "the group's offset is before rows that are not inserted yet"
    assert [row.ranges for row in desk.rows("plans").values()] == [((5, 8),)]
    assert desk.due() == 0
    last = desk.turn()
    assert (inserts(last), offset_of(last)) == ([], 9)
    assert not desk.changelog["plans"]
    assert desk.due() is None


def test_the_next_batch_carries_the_offset_of_the_one_before(desk: Desk[State]) -> None:
    desk.turn([state_record(0)])
    decision = desk.turn([state_record(1), state_record(2)])
    assert inserts(decision) == [("delivery-states-2-1-2", ["e1", "e2"])]
    assert offset_of(decision) == 1
    assert [row.ranges for row in desk.rows("plans").values()] == [((1, 2),)]


def test_a_planned_batch_is_repeated_identically_from_turns_of_any_size(desk: Desk[State]) -> None:
    planned = inserts(desk.turn([state_record(i) for i in range(4)]))
    desk.restart(an_analyse())
    again = desk.turn([state_record(0)])
    assert (inserts(again), offset_of(again)) == ([], 0)
    again = desk.turn([state_record(1), state_record(2)])
    assert (inserts(again), offset_of(again)) == ([], 0)
    again = desk.turn([state_record(3), state_record(4)])
    assert inserts(again) == [*planned, ("delivery-states-2-4-4", ["e4"])]
    assert offset_of(again) == 0
    assert offset_of(desk.turn()) == 5


def test_signals_are_no_facts(desk: Desk[State]) -> None:
    signals = [
        record(TOPIC, delivery_state(f"e{n}", kind=kind), offset=n, partition=PARTITION)
        for n, kind in enumerate(SIGNALS)
    ]
    decision = desk.turn([*signals, state_record(5)])
    assert inserts(decision) == [("delivery-states-2-0-5", ["e5"])]


def test_what_is_refused_is_refused_once_and_the_rest_is_inserted(desk: Desk[State]) -> None:
    batch = [state_record(0), junk_record(1), state_record(2)]
    decision = desk.turn(batch)
    assert refused(decision) == ["not_avro"]
    assert inserts(decision) == [("delivery-states-2-0-2", ["e0", "e2"])]
    desk.restart(an_analyse())
    again = desk.turn([*batch, junk_record(3)])
    assert [refusal.record.offset for refusal in again.refusals] == [3]
    assert inserts(again)[0] == inserts(decision)[0]


# --- the insert ---------------------------------------------------------------------------------------------------------


class Ledger(ClickHouseFacts):
    """A sink in memory in place of ClickHouse; it is unavailable for `outages` inserts."""

    def __init__(self, outages: int = 0) -> None:
        super().__init__(NOWHERE)
        self.outages = outages
        self.inserted: list[tuple[str, list[str]]] = []

    async def insert(self, token: str, states: Sequence[DeliveryState]) -> None:
        if self.outages:
            self.outages -= 1
            raise Unavailable("unavailable")
        self.inserted.append((token, [state.event_id for state in states]))


async def test_write_inserts_every_chunk_with_rows_and_waits_for_clickhouse() -> None:
    ledger = Ledger(outages=1)
    stage = an_analyse(ledger)
    chunks = [Chunk(0, "a", [delivery_state("e1")]), Chunk(0, "b", []), Chunk(0, "c", [delivery_state("e2")])]
    await stage.write(Decision(writes=chunks))
    assert ledger.inserted == [("a", ["e1"]), ("c", ["e2"])]


async def test_any_other_error_than_unavailable_is_raised() -> None:
    class Broken(Ledger):
        async def insert(self, token: str, states: Sequence[DeliveryState]) -> None:
            raise ValueError(f"{token} of {len(states)}")

    with pytest.raises(ValueError, match="a of 1"):
        await an_analyse(Broken()).write(Decision(writes=[Chunk(0, "a", [delivery_state()])]))


async def test_partitions_insert_one_after_the_other_at_a_distance() -> None:
    """Each partition collects records until its slot and plans only then; an incomplete replayed range uses no slot."""
    stage = Analyse(sink=Ledger(), linger_ms=60_000)
    assert stage.turn_delay(0) == 0, "after a pause no partition waits"
    assert [round(stage.turn_delay(number) / 60) for number in (1, 2, 1)] == [1, 2, 1]
    await stage.write(Decision(writes=[]))
    assert stage.turn_delay(0) == 0
    await stage.write(Decision(writes=[Chunk(0, "a", [delivery_state("e1")])]))
    assert round(stage.turn_delay(0) / 60) == 3


async def test_while_clickhouse_is_unavailable_one_insert_is_retried_and_the_others_wait() -> None:
    class Counting(Ledger):
        tried: ClassVar[list[str]] = []

        async def insert(self, token: str, states: Sequence[DeliveryState]) -> None:
            self.tried.append(token)
            await super().insert(token, states)

    ledger = Counting(outages=2)
    stage = an_analyse(ledger)
    writes = [Chunk(number, f"t{number}", [delivery_state(f"e{number}")]) for number in range(3)]
    await asyncio.gather(*(stage.write(Decision(writes=[chunk])) for chunk in writes))
    assert ledger.tried == ["t0", "t0", "t0", "t1", "t2"]
    assert ledger.inserted == [(f"t{n}", [f"e{n}"]) for n in range(3)]


# --- any crash ----------------------------------------------------------------------------------------------------------


class World:
    """One partition in Kafka and in ClickHouse: what the group committed, and what was inserted with which token."""

    def __init__(self, log: list[Record]) -> None:
        self.log = log
        self.committed = 0
        self.position = 0
        self.at_start = 0
        self.inserted: dict[str, list[str]] = {}
        self.letters: Counter[int] = Counter()
        self.desk = Desk(an_analyse(), PARTITION)

    def restart(self) -> None:
        self.desk.restart(an_analyse())
        self.position = self.at_start = self.committed

    def waiting(self) -> list[Record]:
        return [each for each in self.log if each.offset >= self.position]

    def turn(self, size: int, fate: str, inserted: int) -> None:
        """A turn that is lost, or committed and stopped after some of its inserts, or complete."""
        batch = self.waiting()[:size]
        decision = self.desk.decide(batch)
        if fate == "lost":
            self.restart()
            return
        self.desk.commit()
        offset = offset_of(decision)
        self.committed = max(self.at_start, self.committed if offset is None else offset)
        for refusal in decision.refusals:
            if refusal.record.offset >= self.at_start:
                self.letters[refusal.record.offset] += 1
        if batch:
            self.position = batch[-1].offset + 1
        self.check_committed()
        chunks = inserts(decision)
        for token, rows in chunks if fate == "whole" else chunks[:inserted]:
            self.insert(token, rows)
        if fate == "cut off":
            self.restart()

    def insert(self, token: str, rows: list[str]) -> None:
        if rows:
            assert self.inserted.setdefault(token, rows) == rows, (
                "the same token for other rows: ClickHouse would drop them"
            )

    def check_committed(self) -> None:
        done = {row for rows in self.inserted.values() for row in rows}
        behind = {f"e{each.offset}" for each in self.log if each.offset < self.committed and each.value != b"junk"}
        assert behind <= done, "an offset was committed before its rows were inserted"

    def finish(self) -> None:
        for _ in range(1000):
            if self.waiting():
                self.turn(7, "whole", 0)
            elif self.desk.due() == 0:
                self.turn(0, "whole", 0)
            else:
                return
        raise AssertionError("it never ends")


@st.composite
def _logs(draw: st.DrawFn) -> list[Record]:
    """States and unreadable records, with gaps in the offsets where transactions ended."""
    offset, log = 0, []
    for is_junk, hole in draw(
        st.lists(st.tuples(st.sampled_from([False] * 5 + [True]), st.integers(0, 2)), max_size=25)
    ):
        log.append(junk_record(offset) if is_junk else state_record(offset))
        offset += 1 + hole
    return log


_TURNS = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from(["whole", "whole", "lost", "cut off"]), st.integers(0, 2)), max_size=15
)


@examples(300)
@given(log=_logs(), turns=_TURNS)
def test_any_crash_and_any_turns_insert_every_state_exactly_once(
    log: list[Record], turns: list[tuple[int, str, int]]
) -> None:
    world = World(log)
    for size, fate, inserted in turns:
        if world.waiting()[:size] or world.desk.due() == 0:
            world.turn(size, fate, inserted)
    world.finish()
    rows = [row for rows in world.inserted.values() for row in rows]
    assert sorted(rows) == sorted(f"e{each.offset}" for each in log if each.value != b"junk")
    assert world.letters == Counter(each.offset for each in log if each.value == b"junk")
    assert world.committed == (log[-1].offset + 1 if log else 0)
    assert not world.desk.changelog["plans"]
