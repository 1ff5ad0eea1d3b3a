"""How far Kafka's topics go, and how far stages archive and analyse have come: for `chat4all check` and `chat4all replay`.

Enters: how to reach Kafka, and PostgreSQL's sink_offsets. Leaves: positions by topic and partition, and the wait until both sinks have
passed given ends. Guaranteed: only reads; no consumer group changes. An end is the last stable offset: a transaction that is still open
is after it. Transaction markers are no records: a sink that stands before nothing but markers is not behind.
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # exported there, not in its __all__

from pipelines.engine.kafka_names import app_id
from pipelines.stages import kinds
from schemas.kafka_access import KafkaAccess
from schemas.kafka_reachability import KafkaReachability, Unreached
from sinks.check_look import connected, errors_of_postgres
from sinks.sink_errors import Unavailable

ASK_SECONDS = 20.0
REACH_SECONDS = 8.0
EMPTY_SECONDS = 5.0  # how long a partition may take to say that only markers follow
LOOK_SECONDS = 0.25
Partition = tuple[str, int]


@dataclass(frozen=True, slots=True)
class SinkPosition:
    """One topic partition: its end, and the next offset of a sink; None: it has none yet."""

    sink: str
    topic: str
    partition: int
    end: int
    next_offset: int | None

    @property
    def is_ahead(self) -> bool:
        """Whether the sink is beyond the end, as after Kafka lost records or was set up anew."""
        return self.next_offset is not None and self.next_offset > self.end


class SinkPositions:
    """Asks Kafka and PostgreSQL. All methods block and raise Unavailable. Close it at the end."""

    def __init__(self, kafka: KafkaAccess, postgres_url: str) -> None:
        self._kafka = kafka
        self._postgres_url = postgres_url
        self._reach = KafkaReachability(kafka)
        try:
            self._admin = AdminClient(self._reach.settings("check"))
        except Unreached as error:
            raise Unavailable(str(error)) from error
        self._consumer = Consumer(
            kafka.settings("check", group_id="chat4all-check", enable_auto_commit=False, enable_partition_eof=True)
        )
        self._groups: dict[str, Consumer] = {}
        self.sources = {
            sink: [source.topic for kind in kinds(sink) for source in kind.sources] for sink in ("archive", "analyse")
        }

    def close(self) -> None:
        for each in (self._consumer, *self._groups.values()):
            each.close()

    def ends(self, topics: Iterable[str] = ()) -> dict[Partition, int]:
        """The last stable offset of each partition of these topics; without any, of all topics that the sinks read."""
        wanted = set(topics) or {topic for each in self.sources.values() for topic in each}
        try:
            known = self._reach.metadata(self._admin, REACH_SECONDS).topics
            if hidden := sorted(wanted - set(known)):
                raise Unavailable(
                    f"Kafka shows no topic {hidden[0]}: this Kafka user may not see it, or `python -m pipelines prepare` has not run"
                )
            places = [TopicPartition(name, number) for name in sorted(wanted) for number in known[name].partitions]
            asked = self._admin.list_offsets(
                {place: OffsetSpec.latest() for place in places},  # type: ignore[no-untyped-call]  # confluent-kafka has no type for it
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=ASK_SECONDS,
            )
            return {
                (place.topic, place.partition): future.result(ASK_SECONDS).offset for place, future in asked.items()
            }
        except Unreached as error:
            raise Unavailable(str(error)) from error
        except (KafkaException, TimeoutError) as error:
            raise self._unavailable(error) from error

    def of(self, ends: Mapping[Partition, int]) -> list[SinkPosition]:
        """The positions of both sinks in the partitions that they read."""
        held = {"archive": self._in_postgres(), "analyse": self._in_group("analyse", ends)}
        return [
            SinkPosition(sink, topic, partition, end, held[sink].get((topic, partition)))
            for sink, topics in self.sources.items()
            for (topic, partition), end in sorted(ends.items())
            if topic in topics
        ]

    def behind(
        self, ends: Mapping[Partition, int], sinks: Sequence[str] = ("archive", "analyse")
    ) -> list[SinkPosition]:
        """Where one of the sinks has not yet written a record before the end."""
        late = [each for each in self.of(ends) if (each.next_offset or 0) < each.end]
        found = []
        for sink in sinks:  # a partition may stand at two places: at one for each sink
            first = {(each.topic, each.partition): each.next_offset or 0 for each in late if each.sink == sink}
            records = self._with_records(first, ends)
            found += [each for each in late if each.sink == sink and (each.topic, each.partition) in records]
        return found

    def await_passed(self, seconds: float, sinks: Sequence[str] = ("archive", "analyse")) -> str:
        """Waits until the sinks have written all records that are in Kafka now, `seconds` at most. Returns a sentence about the sink that
        has not, or an empty text."""
        ends, deadline = self.ends(), time.monotonic() + seconds
        while late := self.behind(ends, sinks):
            if time.monotonic() > deadline:
                worst = max(late, key=lambda each: each.end - (each.next_offset or 0))
                return (
                    f"{worst.sink} has not passed {worst.topic}[{worst.partition}] up to {worst.end} within {seconds:.0f} s: it is at"
                    f" {worst.next_offset or 0} (and {len(late) - 1} more such partitions)"
                )
            time.sleep(LOOK_SECONDS)
        return ""

    def members(self, sink: str) -> int:
        """How many workers are in the consumer group of a sink now."""
        try:
            group = app_id(sink)
            return len(self._admin.describe_consumer_groups([group])[group].result(ASK_SECONDS).members)
        except (KafkaException, TimeoutError) as error:
            raise self._unavailable(error) from error

    def _in_group(self, sink: str, ends: Mapping[Partition, int]) -> dict[Partition, int]:
        asked = [TopicPartition(topic, number) for topic, number in ends if topic in self.sources[sink]]
        try:
            if not asked:
                return {}
            partitions = self._group_of(sink).committed(asked, timeout=ASK_SECONDS)
        except (KafkaException, TimeoutError) as error:
            raise self._unavailable(error) from error
        return {(each.topic, each.partition): each.offset for each in partitions if each.offset >= 0}

    def _group_of(self, sink: str) -> Consumer:
        """Only asks for the group's offsets: without a subscription it is no member. (The admin client's call for this can crash.)"""
        if sink not in self._groups:
            settings = self._kafka.settings("check", group_id=app_id(sink), enable_auto_commit=False)
            self._groups[sink] = Consumer(settings)
        return self._groups[sink]

    def _in_postgres(self) -> dict[Partition, int]:
        with errors_of_postgres(), connected(self._postgres_url) as connection:
            rows = connection.execute(
                "select topic, partition, next_offset from sink_offsets where sink = 'archive'"
            ).fetchall()
        return {(topic, partition): offset for topic, partition, offset in rows}

    def _with_records(self, first: Mapping[Partition, int], ends: Mapping[Partition, int]) -> Collection[Partition]:
        """The partitions that have a record, not only markers, from that offset up to the end."""
        if not first:
            return ()
        found: set[Partition] = set()
        waiting = set(first)
        try:
            self._consumer.assign([TopicPartition(*place, offset) for place, offset in first.items()])
            deadline = time.monotonic() + EMPTY_SECONDS
            while waiting and time.monotonic() < deadline:
                got = self._consumer.poll(0.2)
                if got is None or got.topic() is None or got.partition() is None:
                    continue
                place = (str(got.topic()), int(got.partition() or 0))
                if place in waiting and got.error() is None and (got.offset() or 0) < ends[place]:
                    found.add(place)
                if place in waiting:
                    waiting.remove(place)
                    self._consumer.pause([TopicPartition(*place)])
            return found | waiting
        except (KafkaException, TimeoutError) as error:
            raise self._unavailable(error) from error
        finally:
            # a pause would outlive the assignment
            self._consumer.resume([TopicPartition(*place) for place in set(first) - waiting])
            self._consumer.unassign()

    def _unavailable(self, error: Exception) -> Unavailable:
        known = error.args[0] if isinstance(error, KafkaException) else None
        return Unavailable(
            f"Kafka at {self._kafka} does not answer (CHAT4ALL_KAFKA_URL): {known.str() if known else 'no answer in time'}"
        )
