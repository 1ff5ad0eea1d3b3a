"""The topic our own clients are served from, read as docs/internal.md says: in order, committed transactions only.

What enters: Kafka and a topic. What leaves: its records, batch by batch. Guaranteed: a batch is committed when the next one is asked for,
so a reader that starts again goes on where it was, and sees again at most the batch it died with. While Kafka or the topic is not there,
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
    """One reader of every partition. Both methods block, and belong to one thread at a time."""

    def __init__(self, kafka: KafkaAccess, topic: str) -> None:
        self._topic = topic
        self._settings = {
            **kafka.settings("simulated-clients"),
            "error_cb": _say,
            "group.id": f"chat4all-simulated-clients-{topic}",  # keeps offsets; there is no membership to wait for
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 500,  # of an empty topic; what comes is answered at once
        }
        self._consumer: Consumer | None = None
        self._is_uncommitted = False

    def fetch(self) -> list[KafkaMessage]:
        """The next records, none when nothing came for a moment."""
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
        """A consumer at the places where the last one was. Places are asked for here: one that was told to look them up itself waits in
        silence when the coordinator is slow to come."""
        consumer = Consumer(self._settings)
        try:
            places = consumer.committed(self._partitions(consumer), _REACH_SECONDS)
            consumer.assign([_first(place) for place in places])
        except KafkaException:
            consumer.close()
            raise
        return consumer

    def _partitions(self, consumer: Consumer) -> list[TopicPartition]:
        found = consumer.list_topics(timeout=_REACH_SECONDS).topics.get(self._topic)
        if found is None or not found.partitions:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, f"no topic {self._topic} yet"))
        return [TopicPartition(self._topic, number) for number in found.partitions]


def _first(place: TopicPartition) -> TopicPartition:
    """Where to begin in a partition: at its beginning when nothing was ever committed."""
    if place.error is not None:
        raise KafkaException(place.error)
    return TopicPartition(place.topic, place.partition, place.offset if place.offset >= 0 else OFFSET_BEGINNING)


def _say(error: object) -> None:
    sys.stderr.write(f"internal simulator: {error}\n")
    sys.stderr.flush()
