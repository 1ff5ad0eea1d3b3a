"""Table `plans` of stage analyse: batches planned for ClickHouse. Key: source topic.

A batch is planned in Kafka before it is inserted. After a crash, the next worker inserts the identical batch with the identical token, and
ClickHouse drops it if it has the batch already.
"""

from dataclasses import dataclass

from tables.layout import JsonLayout


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """The batches of one source partition that are planned and perhaps not inserted yet."""

    # first and last offset of each batch, both inclusive, in the order of offsets
    ranges: tuple[tuple[int, int], ...]
    # when each was planned, in Unix milliseconds; empty in a plan of a release before this field
    planned_at: tuple[int, ...] = ()

    @property
    def times(self) -> tuple[int, ...]:
        """When each range was planned; 0 where that is not known."""
        return (*self.planned_at, *([0] * len(self.ranges)))[: len(self.ranges)]


PLANS = JsonLayout("plans", PlannedBatch)
