"""Stage analyse: writes what was accepted, every transition of every delivery, and what people wrote to ClickHouse, for reports.

In: conversation-log, delivery-states. Out: ClickHouse, dead letters. Guaranteed: each record is counted once. A turn first commits a plan
of its batches to Kafka (first and last offset, a row of table `plans` for each source) and inserts them after that. The group's offset
stays before a batch until the batch is inserted. After a crash, the next owner therefore inserts the identical batch with the identical
token, and ClickHouse drops the repetition, or is asked what is missing (docs/decisions/0038). The cost of an insert depends on its parts,
not on its rows, so the partitions of a worker insert one after the other, each a larger batch (docs/decisions/0017).
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from pipelines.engine.stage import Decision, Inputs, Record, Refusal, Source, Stage, Tables
from pipelines.sink_retry import until_available
from pipelines.time_slots import TimeSlots
from schemas import codec, metrics
from schemas.records import SIGNALS, DeliveryState, SequencedMessage
from sinks.clickhouse import ClickHouseFacts
from sinks.fact_tables import ACCEPTED, EVENTS, INBOUND, FactTable, accepted, inbound
from tables.layout import Layout
from tables.plans import PLANS, PlannedBatch
from tables.table import Table

LOG, STATES = "conversation-log", "delivery-states"
LEAST_FETCH_WAIT_MS = 100  # with 0, fetches would follow each other without a pause
# Days in one insert. Each day is a part in each relation, and an entry of the deduplication window.
MOST_DAYS = 400
MOST_ROWS = 20_000  # in one insert; one message, which may have thousands of deliveries, is never cut
DAY_MS = 86_400_000
FRESH_MS = 60_000  # an insert that starts later after its plan may be that of a former owner

# What a record gives: its relation, and its row there
Fact = tuple[FactTable, Any]


class Chunk(NamedTuple):
    """One insert: its partition, its token, its rows in offset order, when it was planned (Unix milliseconds; 0 when that is not known),
    and whether it may have been inserted before (`again`)."""

    partition: int
    token: str
    rows: list[Any]
    table: FactTable = EVENTS
    planned_at: int = 0
    again: bool = False


@dataclass(slots=True)
class Progress:
    """One source partition. `replay` holds the planned ranges, first and last offset and time of the plan, that may not have been inserted
    yet."""

    topic: str
    replay: list[tuple[int, int, int]]
    planned_to: int  # highest planned offset: refused records up to it are in dead-letters already
    partial: list[Fact] = field(default_factory=list)  # rows of the first replayed range, until it is complete
    done_to: int | None = None  # last offset that is inserted, but not committed yet


@dataclass(slots=True)
class State:
    """One partition of analyse: its plans, and the progress of each source."""

    partition: int
    plans: Table[PlannedBatch]
    progress: dict[str, Progress]


class Analyse(Stage[State]):
    """All partitions of a worker share `sink` and the interval between inserts, `linger_ms`. A longer interval makes inserts larger, and
    reports older by one interval for each partition that has rows to insert.

    While ClickHouse is unavailable, `write` retries without end: no partition takes its next turn, records wait in Kafka, and the
    lag shows it. At a rebalance the engine waits for the turn in progress; if that takes too long, it ends the worker, and the next
    owner of the partition inserts the planned batch again."""

    name = "analyse"
    one_changelog = True
    sources = (Source(LOG), Source(STATES))
    tables: ClassVar[tuple[Layout[Any], ...]] = (PLANS,)
    turn_ms = 1000  # ClickHouse wants few large inserts
    turn_records = 20_000
    fetch_min_bytes = 65_536

    def __init__(self, *, sink: ClickHouseFacts, linger_ms: int) -> None:
        self._sink = sink
        self._slots = TimeSlots(linger_ms)
        self._insert_lock = asyncio.Lock()  # one insert at a time; while ClickHouse is unavailable, only one retries
        self.linger_ms = linger_ms  # the next turn commits the offset of the batch before
        self.fetch_wait_ms = max(LEAST_FETCH_WAIT_MS, linger_ms)
        # What a record of each source gives. Raises CodecError.
        self.readers: Mapping[str, Callable[[Record], list[Fact]]] = {LOG: _of_message, STATES: _of_state}

    async def start(self) -> None:
        """Connects, in a thread; raises Unavailable or NotMigrated."""
        await self._sink.open()

    async def stop(self) -> None:
        await self._sink.close()

    def open(self, partition: int, tables: Tables) -> State:
        """Reads the plans: their ranges may not have been inserted, so they are collected and inserted again."""
        return State(partition, tables["plans"], {topic: _progress(topic, tables["plans"]) for topic in self.readers})

    def turn_delay(self, partition: int) -> float:
        """Seconds until the partition's time slot; see time_slots.py."""
        return self._slots.wait(partition)

    def next_due(self, state: State) -> int | None:
        # the offset of the last batch is committed as soon as no record follows
        return 0 if any(each.done_to is not None for each in state.progress.values()) else None

    def is_done(self, state: State) -> bool:
        return all(each.done_to is None and not each.replay for each in state.progress.values())

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:
        """Plans the inserts of a turn, and moves the group's offsets behind the inserts of the turn before.

        Reads and writes table `plans`; puts Chunks into `decision.writes`. Refuses a record that cannot be decoded, once. Raises
        nothing on purpose."""
        decision = Decision(writes=[])
        for topic, progress in state.progress.items():
            records = [record for record in inputs.records if record.topic == topic]
            self._plan(records, state, progress, decision, now)
        return decision

    def _plan(self, records: list[Record], state: State, progress: Progress, decision: Decision, now: int) -> None:
        """The part of `decide` for one source."""
        key, source = progress.topic.encode(), (progress.topic, state.partition)
        if progress.done_to is not None:
            decision.offsets[source] = progress.done_to + 1
            if not records:
                state.plans.delete(key)
            progress.done_to = None
        if not records:
            return
        planned: list[tuple[int, int, int]] = []
        rest = records
        while progress.replay and rest:
            rest = self._replay(rest, state, progress, decision, planned)
        for first, last, facts in _ranges([(each, self._facts(each, progress, decision)) for each in rest]):
            planned.append((first, last, now))
            decision.writes += _chunks(progress.topic, state.partition, planned[-1], facts, again=False)
        ranges = (*planned, *progress.replay)
        state.plans.put(
            key, PlannedBatch(tuple((first, last) for first, last, _ in ranges), tuple(at for _, _, at in ranges))
        )
        progress.planned_to = max(progress.planned_to, records[-1].offset)
        # the group's offset stays before rows that are not inserted yet
        decision.offsets[source] = ranges[0][0]
        progress.done_to = planned[-1][1] if planned and not progress.replay else None

    def _replay(
        self,
        records: list[Record],
        state: State,
        progress: Progress,
        decision: Decision,
        planned: list[tuple[int, int, int]],
    ) -> list[Record]:
        """Collects exactly the first planned range again; returns the records after it."""
        last = progress.replay[0][1]
        within = [record for record in records if record.offset <= last]
        for record in within:
            progress.partial += self._facts(record, progress, decision)
        if (within and within[-1].offset >= last) or len(within) < len(records):
            planned.append(progress.replay.pop(0))
            decision.writes += _chunks(progress.topic, state.partition, planned[-1], progress.partial, again=True)
            progress.partial = []
        return records[len(within) :]

    def _facts(self, record: Record, progress: Progress, decision: Decision) -> list[Fact]:
        try:
            return self.readers[progress.topic](record)
        except codec.CodecError as error:
            if record.offset > progress.planned_to:
                decision.refusals.append(Refusal(record, error.cause, str(error)))
            return []

    async def write(self, decision: Decision) -> None:
        """Inserts the planned chunks, one at a time in the worker; retries while ClickHouse is unavailable. Runs on the worker's loop;
        the insert itself runs in a thread. Raises the sink's other errors, which end the worker."""
        if decision.writes:
            async with self._insert_lock:
                self._slots.used(decision.writes[0].partition)
                for chunk in decision.writes:
                    await self._write(chunk)

    async def _write(self, chunk: Chunk) -> None:
        is_first = not chunk.again

        async def insert() -> None:
            nonlocal is_first
            is_fresh = is_first and time.time() * 1000 - chunk.planned_at < FRESH_MS
            is_first = False  # after an error, the insert may have taken effect
            with metrics.SINK_SECONDS.labels(self.name).time():
                if is_fresh:
                    await self._sink.insert(chunk.token, chunk.rows, chunk.table)
                else:
                    await self._sink.insert_again(chunk.token, chunk.rows, chunk.planned_at, chunk.table)
            metrics.SINK_ROWS.labels(self.name).observe(len(chunk.rows))

        await until_available(insert, "ClickHouse")


def _progress(topic: str, plans: Table[PlannedBatch]) -> Progress:
    plan = plans.get(topic.encode()) or PlannedBatch(())
    replay = [(first, last, at) for (first, last), at in zip(plan.ranges, plan.times, strict=True)]
    return Progress(topic, replay, max((last for _, last in plan.ranges), default=-1))


def _of_state(record: Record) -> list[Fact]:
    transition = codec.decode(record.value, DeliveryState)
    # a signal has no receipt: reports would show it as sent for ever
    return [] if transition.kind in SIGNALS else [(EVENTS, transition)]


def _of_message(record: Record) -> list[Fact]:
    message = codec.decode(record.value, SequencedMessage)
    return [*((ACCEPTED, row) for row in accepted(message)), *((INBOUND, row) for row in inbound(message))]


def _ranges(read: Sequence[tuple[Record, list[Fact]]]) -> list[tuple[int, int, list[Fact]]]:
    """The records as ranges, first and last offset, each of at most MOST_ROWS rows of at most MOST_DAYS days."""
    ranges: list[tuple[int, int, list[Fact]]] = []
    days: set[int] = set()
    for record, facts in read:
        new = {row.accepted_at // DAY_MS for _, row in facts}
        if not ranges or len(days | new) > MOST_DAYS or len(ranges[-1][2]) + len(facts) > MOST_ROWS:
            ranges.append((record.offset, record.offset, []))
            days = set()
        days |= new
        first, _, so_far = ranges[-1]
        so_far += facts
        ranges[-1] = (first, record.offset, so_far)
    return ranges


def _chunks(
    topic: str, partition: int, planned: tuple[int, int, int], facts: list[Fact], *, again: bool
) -> list[Chunk]:
    """One chunk for each relation of a planned range that has rows."""
    first, last, at = planned
    chunks = []
    for table in (EVENTS, ACCEPTED, INBOUND):
        rows = [row for of, row in facts if of is table]
        if rows:
            kind = "" if table is EVENTS else f"-{table.name}"
            chunks.append(Chunk(partition, f"{topic}-{partition}-{first}-{last}{kind}", rows, table, at, again))
    return chunks
