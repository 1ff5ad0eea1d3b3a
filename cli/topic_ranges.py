"""Records of topics from one time to another, read for `chat4all replay`.

Enters: how to reach Kafka, topics, a range of times or offsets, and how far each partition may be read. Leaves: batches of records, in
the order of each partition. Guaranteed: no consumer group is joined or changed; a batch is bounded; transactions that were aborted are
not read. What Kafka does not keep any more is said, not skipped in silence.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from pipelines.engine.stage import Record
from schemas.kafka_access import KafkaAccess
from sinks.sink_errors import Unavailable

BATCH_RECORDS = 2000
ASK_SECONDS = 20.0
SILENT_SECONDS = 30.0  # without any record although some are left
Partition = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to read: records with a timestamp in [since, until) in Unix milliseconds, or from `first_offset` on; None: no limit."""

    since: int | None = None
    until: int | None = None
    first_offset: int | None = None
    last_offset: int | None = None


@dataclass(slots=True)
class TopicRanges:
    """The offsets that will be read, [first, end) of each partition, and sentences about what Kafka has deleted."""

    spans: dict[Partition, tuple[int, int]] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)

    @property
    def records(self) -> int:
        """At most so many records: some offsets are markers of transactions."""
        return sum(max(0, end - first) for first, end in self.spans.values())


class TopicReader:
    """Reads ranges. All methods block; raise Unavailable when Kafka does not answer. Close it at the end."""

    def __init__(self, kafka: KafkaAccess) -> None:
        self._kafka = kafka
        self._consumer = Consumer(
            kafka.settings("replay", group_id="chat4all-replay", enable_auto_commit=False, enable_partition_eof=True)
        )

    def close(self) -> None:
        self._consumer.close()

    def ranges(self, ends: Mapping[Partition, int], wanted: Wanted) -> TopicRanges:
        """The offsets of the wanted records, none at or after its partition's end."""
        found = TopicRanges()
        try:
            for place, end in sorted(ends.items()):
                low, _ = self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=ASK_SECONDS)
                first = max(self._offset(place, wanted.since, low), wanted.first_offset or 0)
                last = min(end, self._offset(place, wanted.until, end))
                if wanted.last_offset is not None:
                    last = min(last, wanted.last_offset)
                if low > 0 and first <= low:
                    found.gone.append(f"{place[0]}[{place[1]}]: Kafka keeps nothing before offset {low}")
                found.spans[place] = (max(low, first), max(low, first, last))
        except (KafkaException, TimeoutError) as error:
            raise self._unavailable(error) from error
        return found

    def read(self, ranges: TopicRanges) -> Iterator[list[Record]]:
        """The records, in batches of at most BATCH_RECORDS. Partitions are mixed; each is in order."""
        left = {place: end for place, (first, end) in ranges.spans.items() if first < end}
        if not left:
            return
        try:
            self._consumer.assign([TopicPartition(*place, ranges.spans[place][0]) for place in left])
            heard = time.monotonic()
            while left:
                got = self._consumer.consume(BATCH_RECORDS, timeout=1.0)
                batch = self._taken(got, left)
                if batch:
                    yield batch
                if got:
                    heard = time.monotonic()
                elif time.monotonic() - heard > SILENT_SECONDS:
                    raise Unavailable(f"Kafka at {self._kafka} sends no records of {min(left)[0]} (CHAT4ALL_KAFKA_URL)")
        except KafkaException as error:
            raise self._unavailable(error) from error
        finally:
            # a pause would outlive the assignment
            self._consumer.resume([TopicPartition(*place) for place in ranges.spans if place not in left])
            self._consumer.unassign()

    def _taken(self, got: Sequence[Message], left: dict[Partition, int]) -> list[Record]:
        """The records before their partition's end. Takes partitions that are at their end out of `left`."""
        batch = []
        for each in got:
            place, offset = (str(each.topic()), int(each.partition() or 0)), int(each.offset() or 0)
            if place not in left:
                continue
            if (error := each.error()) is not None:
                if error.name() != "_PARTITION_EOF":
                    raise KafkaException(error)
                if offset >= left[place]:  # only markers were left
                    self._end(place, left)
                continue
            if offset < left[place]:
                batch.append(_record(each))
            if offset >= left[place] - 1:
                self._end(place, left)
        return batch

    def _end(self, place: Partition, left: dict[Partition, int]) -> None:
        del left[place]
        self._consumer.pause([TopicPartition(*place)])

    def _offset(self, place: Partition, at: int | None, otherwise: int) -> int:
        """The first offset with that timestamp or a later one; `otherwise` without a time, and the end of the partition if none follows."""
        if at is None:
            return otherwise
        [found] = self._consumer.offsets_for_times([TopicPartition(*place, max(0, at))], timeout=ASK_SECONDS)
        if found.offset >= 0:
            return int(found.offset)
        return int(self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=ASK_SECONDS)[1])

    def _unavailable(self, error: Exception) -> Unavailable:
        known = error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
        return Unavailable(f"Kafka at {self._kafka} does not answer (CHAT4ALL_KAFKA_URL): {known}")


def _record(message: Message) -> Record:
    return Record(
        str(message.topic()),
        int(message.partition() or 0),
        int(message.offset() or 0),
        int(message.timestamp()[1]),
        _bytes(message.key()),
        _bytes(message.value()),
        (),
    )


def _bytes(value: object) -> bytes | None:
    return value if isinstance(value, bytes) else None
