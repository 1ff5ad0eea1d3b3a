"""Topics of the benchmark: created, filled before the runs, read after them, deleted at the end.

Enters: names and records. Leaves: topics, their committed ends and their records. All methods block.
"""

import time
from collections.abc import Iterable

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported there, not in its __all__
    AdminClient,
    NewTopic,
    OffsetSpec,
)

from pipelines.topics import declared
from schemas.settings import Settings

PARTITIONS = 4
READY_SECONDS = 30.0
COMPACT = {"cleanup.policy": "compact"}


class Topics:
    """The topics of one Kafka."""

    def __init__(self, kafka_url: str) -> None:
        self.kafka_url = kafka_url
        self._admin = AdminClient({"bootstrap.servers": kafka_url, "log_level": 0})

    def create(self, *names: str, compact: bool = False) -> None:
        """Creates topics that do not exist."""
        config = COMPACT if compact else {}
        self._create([NewTopic(name, PARTITIONS, 1, config=config) for name in names])

    def create_dead_letters(self) -> None:
        """Creates `dead-letters`, which every stage of the product may write to."""
        self._create([topic for topic in declared(Settings(partitions=PARTITIONS)) if topic.topic == "dead-letters"])

    def _create(self, topics: list[NewTopic]) -> None:
        known = self._admin.list_topics(timeout=10).topics
        missing = [topic for topic in topics if topic.topic not in known]
        for future in self._admin.create_topics(missing, operation_timeout=30).values() if missing else ():
            future.result(timeout=60)
        while not all(self._has_leaders(topic.topic) for topic in missing):
            time.sleep(0.02)  # a request now would make librdkafka report the topic as unknown for 30 s

    def _has_leaders(self, topic: str) -> bool:
        found = self._admin.list_topics(timeout=10).topics.get(topic)
        return found is not None and bool(found.partitions) and all(p.leader >= 0 for p in found.partitions.values())

    def named(self, part: str) -> list[str]:
        """Topics with `part` in their name."""
        return [name for name in self._admin.list_topics(timeout=10).topics if part in name]

    def delete(self, names: list[str]) -> None:
        for future in self._admin.delete_topics(names, operation_timeout=30).values() if names else ():
            future.result(timeout=60)

    def set_at_start(self, group: str, topic: str) -> None:
        """Commits offset 0 of every partition for the group: the engine refuses rows without committed offsets."""
        offsets = [TopicPartition(topic, number, 0) for number in range(PARTITIONS)]
        asked = ConsumerGroupTopicPartitions(group, offsets)
        self._admin.alter_consumer_group_offsets([asked])[group].result(timeout=30)

    def fill(self, topic: str, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Produces (key, value) records in order; all are acknowledged when it returns. Raises RuntimeError after two minutes."""
        producer = Producer(
            {
                "bootstrap.servers": self.kafka_url,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 50,
                "batch.size": 1_000_000,
                "queue.buffering.max.messages": 200_000,
                "log_level": 3,
            }
        )
        for key, value in records:
            while True:
                try:
                    producer.produce(topic, value, key)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        if producer.flush(120):
            raise RuntimeError(f"topic {topic} could not be filled")

    def ends(self, topic: str) -> dict[int, int]:
        """The end of each partition for a read_committed reader."""
        until = time.monotonic() + READY_SECONDS
        while True:
            try:
                return self._ends(topic)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION or time.monotonic() > until:
                    raise
                time.sleep(0.05)  # a new topic

    def _ends(self, topic: str) -> dict[int, int]:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # confluent-kafka has no types here
        asked = self._admin.list_offsets(
            {TopicPartition(topic, number): latest for number in range(PARTITIONS)},
            isolation_level=IsolationLevel.READ_COMMITTED,
        )
        return {tp.partition: future.result(timeout=30).offset for tp, future in asked.items()}

    def read(self, topic: str) -> Iterable[Message]:
        """Every committed record of a topic, in order within a partition."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.kafka_url,
                "group.id": "bench-reader",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "log_level": 3,
            }
        )
        consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
        left = set(range(PARTITIONS))
        while left:
            for message in consumer.consume(10_000, 0.2):
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # librdkafka's own code has no public name
                    left.discard(message.partition() or 0)
                else:
                    raise RuntimeError(str(error))
        consumer.close()
