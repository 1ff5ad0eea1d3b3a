"""Stage archive: messages, deliveries and every transition into PostgreSQL.

In: conversation-log, delivery-states. Out: PostgreSQL, dead letters. Exactly-once: PostgreSQL holds the offset in the same
transaction as the rows, and on assignment this stage reads from there; the group's offsets in Kafka only show the lag. The partitions
of a worker are written together: one transaction for all, which holds a position of each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from pipelines.engine.stage import Decision, Inputs, Refusal, Source, Stage, Tables
from pipelines.group_commit import GroupCommit
from schemas import codec, metrics
from schemas.records import DeliveryState, SequencedMessage
from sinks.postgres import PostgresArchive as Sink

log = structlog.get_logger(__name__)
LEAST_FETCH_WAIT_MS = 100  # a fetch that waits for nothing would ask without end


@dataclass(slots=True)
class State:
    """A partition of archive remembers nothing."""

    partition: int


@dataclass(slots=True)
class Writes:
    """A partition's batch: rows, the offset after the last record of each source partition, and the bytes of the records."""

    messages: list[SequencedMessage] = field(default_factory=list)
    states: list[DeliveryState] = field(default_factory=list)
    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    size: int = 0
    offsets: dict[tuple[str, int], tuple[int, int]] = field(
        default_factory=dict
    )  # from where to where, once it is to be written


class Archive(Stage[State]):
    """`sink` is shared by the worker's partitions, and so are its transactions, which keep `linger_ms` from each other."""

    name = "archive"
    sources = (Source("conversation-log"), Source("delivery-states"))
    turn_records = 5000
    fetch_min_bytes = 65_536

    def __init__(self, *, sink: Sink, linger_ms: int) -> None:
        self._sink = sink
        self._positions: dict[tuple[str, int], int] = {}
        self._conflicts = self._reused = 0  # those of the sink that were counted
        self._group: GroupCommit[Writes] = GroupCommit(self._write, database="PostgreSQL", distance_ms=linger_ms)
        self.fetch_wait_ms = max(LEAST_FETCH_WAIT_MS, linger_ms)

    async def start(self) -> None:
        await self._sink.open()

    async def stop(self) -> None:
        await self._sink.close()

    async def positions(self, partitions: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        found = await self._sink.positions(partitions)
        self._positions.update(found)
        return found

    def open(self, partition: int, tables: Tables) -> State:  # noqa: ARG002  # this stage has no tables
        return State(partition)

    def turn_delay(self, partition: int) -> float:  # noqa: ARG002  # all begin together
        return self._group.wait()

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:  # noqa: ARG002  # nothing is remembered, nothing is timed
        writes = Writes()
        decision = Decision(writes=writes)
        for record in inputs.records:
            try:
                if record.topic == "conversation-log":
                    writes.messages.append(codec.decode(record.value, SequencedMessage))
                else:
                    writes.states.append(codec.decode(record.value, DeliveryState))
                writes.size += len(record.value or b"")
            except codec.CodecError as error:
                decision.refusals.append(Refusal(record, error.cause, str(error)))
            writes.ends[record.topic, record.partition] = record.offset + 1
        return decision

    async def write(self, decision: Decision) -> None:
        writes: Writes = decision.writes
        if writes.ends:
            writes.offsets = {source: (self._positions[source], end) for source, end in writes.ends.items()}
            await self._group.put(writes)
            self._positions.update(writes.ends)

    async def _write(self, group: Sequence[Writes]) -> None:
        """One transaction. No partition has two batches in a group: its next turn waits for this one."""
        messages = [message for writes in group for message in writes.messages]
        states = [state for writes in group for state in writes.states]
        offsets = {source: span for writes in group for source, span in writes.offsets.items()}
        with metrics.SINK_SECONDS.labels(self.name).time():
            await self._sink.write(messages=messages, states=states, offsets=offsets)
        metrics.SINK_ROWS.labels(self.name).observe(len(messages) + len(states))
        self._count()

    def _count(self) -> None:
        metrics.EVENTS.labels("archive", "conflict").inc(self._sink.conflicts - self._conflicts)
        metrics.EVENTS.labels("archive", "message_id_reused").inc(self._sink.reused - self._reused)
        if self._sink.reused > self._reused:
            log.warning(
                "message ids reused", messages=self._sink.reused - self._reused, query="docs/reports.md tells which"
            )
        self._conflicts, self._reused = self._sink.conflicts, self._sink.reused
