"""Reads the deliveries for our own clients as docs/internal.md says: in order, committed transactions only.

What enters: Kafka and a topic. What leaves: its records, batch by batch. Guaranteed: a batch is committed when the next one is requested,
so a reader that starts again continues where it was, and reads at most its last batch twice. While Kafka or the topic is unavailable,
batches are empty.
"""

import sys
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from schemas.kafka_access import KafkaAccess

_AT_ONCE = 500
_WAIT_SECONDS = 0.1
_REACH_SECONDS = 5.0


class InternalTopic:
    """One reader of every partition. Both methods block; at most one thread may use them at a time."""

    def __init__(self, kafka: KafkaAccess, topic: str) -> None:
        self._topic = topic
        self._settings = {
            **kafka.settings("simulated-clients"),
            "error_cb": _say,
            "group.id": f"chat4all-simulated-clients-{topic}",  # for the offsets only: partitions are assigned by hand
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 500,  # for an empty topic; the broker answers at once when there are records
        }
        self._consumer: Consumer | None = None
        self._is_uncommitted = False

    def fetch(self) -> list[KafkaMessage]:
        """Commits the batch before and returns the next records, none when nothing came for a moment. Blocks."""
        try:
            if self._consumer is None:
                self._consumer = self._opened()
            if self._is_uncommitted:
                self._consumer.commit(asynchronous=False)
                self._is_uncommitted = False
        except KafkaException as error:
            _say(error)
            time.sleep(_WAIT_SECONDS)
            return []
        records = []
        for record in self._consumer.consume(_AT_ONCE, _WAIT_SECONDS):
            if record.error() is None:
                records.append(record)
            else:
                _say(record.error())
        self._is_uncommitted |= bool(records)
        return records

    def close(self) -> None:
        """Leaves the last batch uncommitted unless it was followed by another `fetch`."""
        if self._consumer is not None:
            self._consumer.close()

    def _opened(self) -> Consumer:
        """A consumer that starts at the committed offsets. They are fetched here: a consumer that fetches them itself waits without an
        error while the coordinator is unavailable."""
        consumer = Consumer(self._settings)
        try:
            committed = consumer.committed(self._partitions(consumer), _REACH_SECONDS)
            consumer.assign([_first(each) for each in committed])
        except KafkaException:
            consumer.close()
            raise
        return consumer

    def _partitions(self, consumer: Consumer) -> list[TopicPartition]:
        found = consumer.list_topics(timeout=_REACH_SECONDS).topics.get(self._topic)
        if found is None or not found.partitions:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, f"no topic {self._topic} yet"))
        return [TopicPartition(self._topic, number) for number in found.partitions]


def _first(committed: TopicPartition) -> TopicPartition:
    """Where to start in a partition: at its beginning when nothing was ever committed."""
    if committed.error is not None:
        raise KafkaException(committed.error)
    offset = committed.offset if committed.offset >= 0 else OFFSET_BEGINNING
    return TopicPartition(committed.topic, committed.partition, offset)


def _say(error: object) -> None:
    sys.stderr.write(f"internal simulator: {error}\n")
    sys.stderr.flush()
