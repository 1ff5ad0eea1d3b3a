"""What the stages that write to PostgreSQL have in common: positions, and transactions that their partitions share.

In: what each partition's turn has to write. Out: one call of `write_group` for all that wait. Guaranteed: each record is written exactly
once, because PostgreSQL stores the offset in the same transaction as the rows. When a partition is assigned, the stage reads from the
offset in PostgreSQL; the group's offsets in Kafka only show the lag.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pipelines.engine.stage import Decision, Record, Stage, Tables
from pipelines.group_commit import MOST_BYTES, GroupCommit
from sinks.postgres_sink import PostgresSink


@dataclass(slots=True)
class State:
    """One partition. These stages have no tables."""

    partition: int


@dataclass(slots=True)
class PartitionWrites:
    """One partition's batch: `ends` (the offset after the last record of each source partition), and `size` in bytes."""

    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    size: int = 0
    # (topic, partition) -> (offset in PostgreSQL before, offset after); set by `write`
    offsets: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)

    def passed(self, record: Record) -> None:
        """Counts a record as taken, whatever became of it."""
        self.size += len(record.value or b"")
        self.ends[record.topic, record.partition] = record.offset + 1


W = TypeVar("W", bound=PartitionWrites)


class PostgresStage(Stage[State], Generic[W]):
    """All partitions of a worker share `sink` and its transactions; `interval_ms` is the interval between two transactions, and
    `most_bytes` what one holds at most (or one larger turn).

    While PostgreSQL is unavailable, `write` retries without end: the partitions take no turns, records wait in Kafka, and the lag shows
    it. At a rebalance the engine waits for the turn in progress; if that takes too long, it ends the worker, and the next owner reads
    from the offset in PostgreSQL. A worker that lost its partition is fenced: its write raises SinkFenced."""

    def __init__(
        self, *, sink: PostgresSink, interval_ms: int, databases: str = "PostgreSQL", most_bytes: int = MOST_BYTES
    ) -> None:
        self._sink: Any = sink
        self._positions: dict[tuple[str, int], int] = {}
        self._group: GroupCommit[W] = GroupCommit(
            self.write_group, database=databases, interval_ms=interval_ms, most_bytes=most_bytes
        )

    @abstractmethod
    async def write_group(self, group: Sequence[W], sent: Callable[[], None]) -> None:
        """Writes the batches of some partitions, of each one at most; see GroupCommit for `sent`. Raises what the sinks raise; Unavailable
        is tried again."""

    async def start(self) -> None:
        """Connects; raises Unavailable or NotMigrated."""
        await self._sink.open()

    async def stop(self) -> None:
        await self._sink.close()

    async def positions(self, partitions: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        """The offsets in PostgreSQL, by (topic, partition). The engine asks at each assignment. Raises Unavailable."""
        found: Mapping[tuple[str, int], int] = await self._sink.positions(partitions)
        self._positions.update(found)
        return found

    def open(self, partition: int, tables: Tables) -> State:  # noqa: ARG002  # these stages have no tables
        return State(partition)

    def turn_delay(self, partition: int) -> float:  # noqa: ARG002  # all partitions wait for the same transaction
        """Seconds until the next transaction may start."""
        return self._group.wait()

    async def write(self, decision: Decision) -> None:
        """Returns when the batch is committed in PostgreSQL, in one transaction with waiting batches of other partitions; retries while
        PostgreSQL is unavailable. Runs on the worker's loop and does not block it. Raises SinkFenced or another error of the sink, which
        ends the worker."""
        writes: W = decision.writes
        if writes.ends:
            writes.offsets = {source: (self._positions[source], end) for source, end in writes.ends.items()}
            await self._group.put(writes)
            self._positions.update(writes.ends)


def offsets_of(group: Sequence[PartitionWrites]) -> dict[tuple[str, int], tuple[int, int]]:
    """The offsets of all batches: (topic, partition) -> (before, after). A partition never has two batches in a group, because its next
    turn waits for this one."""
    return {source: span for writes in group for source, span in writes.offsets.items()}
