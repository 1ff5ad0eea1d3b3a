"""Stage analyse: writes every transition of every delivery to ClickHouse, for reports.

In: delivery-states. Out: ClickHouse, dead letters. Guaranteed: each transition is counted once. A turn first commits a plan of its
batch to Kafka (first and last offset, a row of table `plans`) and inserts the batch after that. The group's offset stays before the
batch until the batch is inserted. After a crash, the next owner therefore inserts the identical batch with the identical token, and
ClickHouse drops the repetition. The cost of an insert depends on its parts, not on its rows, so the partitions of a worker
insert one after the other, each a larger batch (docs/decisions/0017).
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from pipelines.engine.stage import Decision, Inputs, Record, Refusal, Source, Stage, Tables
from pipelines.sink_retry import until_available
from pipelines.time_slots import TimeSlots
from schemas import codec, metrics
from schemas.records import SIGNALS, DeliveryState
from sinks.clickhouse import ClickHouseFacts
from tables.layout import Layout
from tables.plans import PLANS, PlannedBatch
from tables.table import Table

TOPIC = "delivery-states"
KEY = TOPIC.encode()
LEAST_FETCH_WAIT_MS = 100  # with 0, fetches would follow each other without a pause


class Chunk(NamedTuple):
    """One insert: its partition, its token, and its rows in offset order."""

    partition: int
    token: str
    states: list[DeliveryState]


@dataclass(slots=True)
class State:
    """One partition of analyse. `replay` holds the planned ranges, first and last offset, that may not have been inserted yet."""

    partition: int
    plans: Table[PlannedBatch]
    replay: list[tuple[int, int]]
    planned_to: int  # highest planned offset: refused records up to it are in dead-letters already
    partial: list[DeliveryState] = field(default_factory=list)  # rows of the first replayed range, until it is complete
    done_to: int | None = None  # last offset that is inserted, but not committed yet


class Analyse(Stage[State]):
    """All partitions of a worker share `sink` and the interval between inserts, `linger_ms`. A longer interval makes inserts larger, and
    reports older by one interval for each partition that has rows to insert.

    While ClickHouse is unavailable, `write` retries without end: no partition takes its next turn, records wait in Kafka, and the
    lag shows it. At a rebalance the engine waits for the turn in progress; if that takes too long, it ends the worker, and the next
    owner of the partition inserts the planned batch again."""

    name = "analyse"
    one_changelog = True
    sources = (Source(TOPIC),)
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

    async def start(self) -> None:
        """Connects, in a thread; raises Unavailable or NotMigrated."""
        await self._sink.open()

    async def stop(self) -> None:
        await self._sink.close()

    def open(self, partition: int, tables: Tables) -> State:
        """Reads the plan: its ranges may not have been inserted, so they are collected and inserted again."""
        plan = tables["plans"].get(KEY)
        ranges = [] if plan is None else [(first, last) for first, last in plan.ranges]
        return State(partition, tables["plans"], ranges, max((last for _, last in ranges), default=-1))

    def turn_delay(self, partition: int) -> float:
        """Seconds until the partition's time slot; see time_slots.py."""
        return self._slots.wait(partition)

    def next_due(self, state: State) -> int | None:
        # the offset of the last batch is committed as soon as no record follows
        return 0 if state.done_to is not None else None

    def is_done(self, state: State) -> bool:
        return state.done_to is None and not state.replay

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:  # noqa: ARG002  # nothing here depends on time
        """Plans the inserts of a turn, and moves the group's offset behind the inserts of the turn before.

        Reads and writes table `plans`; puts Chunks into `decision.writes`. Refuses a record that cannot be decoded, once. Raises
        nothing on purpose."""
        decision = Decision(writes=[])
        if state.done_to is not None:
            decision.offsets[TOPIC, state.partition] = state.done_to + 1
            if not inputs.records:
                state.plans.delete(KEY)
            state.done_to = None
        if not inputs.records:
            return decision
        ranges: list[tuple[int, int]] = []
        rest = list(inputs.records)
        while state.replay and rest:
            rest = self._replay(rest, state, decision, ranges)
        if rest:
            first, last = rest[0].offset, rest[-1].offset
            decision.writes.append(self._chunk(state, first, last, self._decoded(rest, state, decision)))
            ranges.append((first, last))
        unfinished = [] if not state.replay else list(state.replay)
        state.plans.put(KEY, PlannedBatch((*ranges, *unfinished)))
        state.planned_to = max(state.planned_to, inputs.records[-1].offset)
        # the group's offset stays before rows that are not inserted yet
        decision.offsets[TOPIC, state.partition] = ranges[0][0] if ranges else state.replay[0][0]
        state.done_to = ranges[-1][1] if ranges and not state.replay else None
        return decision

    def _replay(
        self, records: list[Record], state: State, decision: Decision, ranges: list[tuple[int, int]]
    ) -> list[Record]:
        """Collects exactly the first planned range again; returns the records after it."""
        first, last = state.replay[0]
        within = [record for record in records if record.offset <= last]
        state.partial += self._decoded(within, state, decision)
        if (within and within[-1].offset >= last) or len(within) < len(records):
            decision.writes.append(self._chunk(state, first, last, state.partial))
            ranges.append((first, last))
            state.replay.pop(0)
            state.partial = []
        return records[len(within) :]

    def _decoded(self, records: list[Record], state: State, decision: Decision) -> list[DeliveryState]:
        states = []
        for record in records:
            try:
                transition = codec.decode(record.value, DeliveryState)
            except codec.CodecError as error:
                if record.offset > state.planned_to:
                    decision.refusals.append(Refusal(record, error.cause, str(error)))
            else:
                if transition.kind not in SIGNALS:  # a signal has no receipt: reports would show it as sent for ever
                    states.append(transition)
        return states

    def _chunk(self, state: State, first: int, last: int, states: list[DeliveryState]) -> Chunk:
        return Chunk(state.partition, f"{TOPIC}-{state.partition}-{first}-{last}", states)

    async def write(self, decision: Decision) -> None:
        """Inserts the planned chunks, one at a time in the worker; retries while ClickHouse is unavailable. Runs on the worker's loop;
        the insert itself runs in a thread. Raises the sink's other errors, which end the worker."""
        for chunk in decision.writes:
            if chunk.states:
                async with self._insert_lock:
                    self._slots.used(chunk.partition)
                    await until_available(lambda chunk=chunk: self._insert(chunk), "ClickHouse")  # type: ignore[misc]  # mypy cannot type a default in a lambda

    async def _insert(self, chunk: Chunk) -> None:
        with metrics.SINK_SECONDS.labels(self.name).time():
            await self._sink.insert(chunk.token, chunk.states)
        metrics.SINK_ROWS.labels(self.name).observe(len(chunk.states))
