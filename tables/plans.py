"""Table `plans` of stage analyse: batches planned for ClickHouse. Key: source topic.

A batch is planned in Kafka before it is inserted; whoever inserts it again, after any crash, inserts the identical batch with the
identical token, and ClickHouse drops it.
"""

from dataclasses import dataclass

from tables.layout import JsonLayout


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    # (first offset, last offset) of each batch, in order, both inclusive
    ranges: tuple[tuple[int, int], ...]


PLANS = JsonLayout("plans", PlannedBatch)
