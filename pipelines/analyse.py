"""Stage analyse: every transition of every delivery into ClickHouse, for reports.

In: delivery-states. Out: ClickHouse, dead letters. Exactly-once as ClickHouse allows it: a batch is planned in Kafka (first and
last offset, a table row) before it is inserted, and the group's offset stays before it until it was; so whoever inserts it
again, after any crash, inserts the identical batch with the identical token, and ClickHouse drops it. What an insert costs is what its
parts cost, so the partitions of a worker gather over time and take turns: one insert, of one partition's batch, at a time (0017).
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
LEAST_FETCH_WAIT_MS = 100  # a fetch that waits for nothing would ask without end


class Chunk(NamedTuple):
    """One insert: the partition it is of, its token, and its rows in offset order."""

    partition: int
    token: str
    states: list[DeliveryState]


@dataclass(slots=True)
class State:
    """One partition of analyse. `replay` are the ranges of an earlier owner that may not have been inserted."""

    partition: int
    plans: Table[PlannedBatch]
    replay: list[tuple[int, int]]
    planned_to: int  # highest offset of any plan so far: what was refused up to it is in dead-letters already
    partial: list[DeliveryState] = field(default_factory=list)  # of the first replayed range, until it is whole
    done_to: int | None = None  # last offset inserted but not yet committed


class Analyse(Stage[State]):
    """`sink` is shared by the worker's partitions, and so is the distance of inserts, `linger_ms`: it makes them larger, and reports older
    by as much for each partition that has something to insert."""

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
        self._turn = asyncio.Lock()  # one insert at a time; while ClickHouse is away one tries, and the others wait
        self.linger_ms = linger_ms  # the next records take the offset of the batch before with them
        self.fetch_wait_ms = max(LEAST_FETCH_WAIT_MS, linger_ms)

    async def start(self) -> None:
        await self._sink.open()

    async def stop(self) -> None:
        await self._sink.close()

    def open(self, partition: int, tables: Tables) -> State:
        plan = tables["plans"].get(KEY)
        ranges = [] if plan is None else [(first, last) for first, last in plan.ranges]
        return State(partition, tables["plans"], ranges, max((last for _, last in ranges), default=-1))

    def turn_delay(self, partition: int) -> float:
        return self._slots.wait(partition)

    def next_due(self, state: State) -> int | None:
        return (
            0 if state.done_to is not None else None
        )  # the last batch's offset is committed as soon as nothing follows

    def is_done(self, state: State) -> bool:
        return state.done_to is None and not state.replay

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:  # noqa: ARG002  # nothing is timed
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
        # hold the group before what is not inserted yet
        decision.offsets[TOPIC, state.partition] = ranges[0][0] if ranges else state.replay[0][0]
        state.done_to = ranges[-1][1] if ranges and not state.replay else None
        return decision

    def _replay(
        self, records: list[Record], state: State, decision: Decision, ranges: list[tuple[int, int]]
    ) -> list[Record]:
        """Collects the first planned range again, exactly; returns the records after it."""
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
                told = codec.decode(record.value, DeliveryState)
            except codec.CodecError as error:
                if record.offset > state.planned_to:
                    decision.refusals.append(Refusal(record, error.cause, str(error)))
            else:
                if (
                    told.kind not in SIGNALS
                ):  # nobody is ever told that a signal arrived: it would stand as sent for good
                    states.append(told)
        return states

    def _chunk(self, state: State, first: int, last: int, states: list[DeliveryState]) -> Chunk:
        return Chunk(state.partition, f"{TOPIC}-{state.partition}-{first}-{last}", states)

    async def write(self, decision: Decision) -> None:
        for chunk in decision.writes:
            if chunk.states:
                async with self._turn:
                    self._slots.used(chunk.partition)
                    await until_available(lambda chunk=chunk: self._insert(chunk), "ClickHouse")  # type: ignore[misc]  # mypy cannot type a default in a lambda

    async def _insert(self, chunk: Chunk) -> None:
        with metrics.SINK_SECONDS.labels(self.name).time():
            await self._sink.insert(chunk.token, chunk.states)
        metrics.SINK_ROWS.labels(self.name).observe(len(chunk.states))
