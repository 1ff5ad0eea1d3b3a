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


PLANS = JsonLayout("plans", PlannedBatch)
