"""Stage archive: messages, deliveries and every transition into PostgreSQL.

In: conversation-log, delivery-states. Out: PostgreSQL, dead letters. Exactly-once: PostgreSQL holds the offset in the same
transaction as the rows, and on assignment this stage reads from there; the group's offsets in Kafka only show the lag.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from pipelines.engine.stage import Decision, Inputs, Refusal, Source, Stage, Tables
from pipelines.patience import until_available
from schemas import codec, metrics
from schemas.records import DeliveryState, SequencedMessage
from sinks.postgres import Archive as Sink

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class State:
    """A partition of archive remembers nothing."""

    partition: int


@dataclass(slots=True)
class Writes:
    """One batch: rows, and the offset after the last record of each source partition."""

    messages: list[SequencedMessage] = field(default_factory=list)
    states: list[DeliveryState] = field(default_factory=list)
    ends: dict[tuple[str, int], int] = field(default_factory=dict)


class Archive(Stage[State]):
    """`sink` is shared by the worker's partitions."""

    name = "archive"
    sources = (Source("conversation-log"), Source("delivery-states"))
    turn_records = 5000

    def __init__(self, *, sink: Sink, linger_ms: int) -> None:
        self._sink = sink
        self._positions: dict[tuple[str, int], int] = {}
        self._conflicts = self._reused = 0  # those of the sink that were counted
        self.linger_ms = linger_ms

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

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:  # noqa: ARG002  # nothing is remembered, nothing is timed
        writes = Writes()
        decision = Decision(writes=writes)
        for record in inputs.records:
            try:
                if record.topic == "conversation-log":
                    writes.messages.append(codec.decode(record.value, SequencedMessage))
                else:
                    writes.states.append(codec.decode(record.value, DeliveryState))
            except codec.CodecError as error:
                decision.refusals.append(Refusal(record, error.cause, str(error)))
            writes.ends[record.topic, record.partition] = record.offset + 1
        return decision

    async def settle(self, decision: Decision) -> None:
        writes: Writes = decision.writes
        if not writes.ends:
            return
        offsets = {source: (self._positions[source], end) for source, end in writes.ends.items()}
        await until_available(
            lambda: self._sink.write(messages=writes.messages, states=writes.states, offsets=offsets), "PostgreSQL"
        )
        self._positions.update(writes.ends)
        # The sink is shared: whichever partition comes first counts what is new, and no await lies between.
        metrics.EVENTS.labels("archive", "conflict").inc(self._sink.conflicts - self._conflicts)
        metrics.EVENTS.labels("archive", "message_id_reused").inc(self._sink.reused - self._reused)
        if self._sink.reused > self._reused:
            log.warning(
                "message ids reused", messages=self._sink.reused - self._reused, query="docs/reports.md tells which"
            )
        self._conflicts, self._reused = self._sink.conflicts, self._sink.reused
