"""One transactional producer per (stage, partition), and the commit of a turn.

Opening a producer (`init_transactions`) fences whoever held the partition before and aborts what it left open; a zombie can
write nothing more. A turn's outputs, changelog rows and source offsets commit together. Errors that librdkafka calls retriable
are tried again within a bound; every other one raises Fenced or CommitFailed, and the worker ends: its memory is ahead of Kafka.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from pipelines.engine.stage import Output

COMMIT_SECONDS = 30.0
_FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED})  # noqa: SLF001  # librdkafka's own code has no public name
T = TypeVar("T")


class CommitFailed(Exception):
    """A transaction could not be committed; nothing of it is visible."""


class Fenced(CommitFailed):
    """Another worker has taken the partition over; nothing of this turn is visible."""


class Transactions:
    """The transactional producer of one partition of one stage. All methods but `produce` block: call them from a thread."""

    def __init__(self, *, kafka_url: str, app_id: str, partition: int, group: Any) -> None:
        self.id = f"{app_id}-{partition}"
        self._group = group
        self._open = False
        self._producer = Producer(
            {
                "bootstrap.servers": kafka_url,
                "transactional.id": self.id,
                "transaction.timeout.ms": 60_000,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "batch.size": 1_000_000,
                "message.max.bytes": 4_194_304,  # a dead letter holds a refused record of any size
                "queue.buffering.max.messages": 2_000_000,
                "queue.buffering.max.kbytes": 1_048_576,
                "log_level": 3,
            }
        )

    def fence(self) -> None:
        """Fences the former owner and aborts what it left open."""
        _retrying(self._producer.init_transactions, f"{self.id}: init_transactions")

    def produce(self, outputs: Sequence[Output]) -> None:
        """Adds outputs to the open transaction, opening one first; never blocks for long (the queue is far larger than a turn)."""
        if not self._open:
            self._producer.begin_transaction()
            self._open = True
        produce = self._producer.produce
        for topic, key, value, partition, headers in outputs:
            produce(topic, value, key, -1 if partition is None else partition, headers=list(headers) or None)

    def produce_rows(self, topic: str, partition: int, rows: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Adds changelog rows to the transaction that `produce` opened."""
        produce = self._producer.produce
        for key, value in rows:
            produce(topic, value, key, partition)

    def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Commits the open transaction with the source offsets of the turn."""
        if offsets:
            positions = [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
            _retrying(
                lambda left: self._producer.send_offsets_to_transaction(positions, self._group, left),
                f"{self.id}: send_offsets_to_transaction",
            )
        _retrying(self._producer.commit_transaction, f"{self.id}: commit_transaction")
        self._open = False


def group_metadata(kafka_url: str, app_id: str) -> tuple[Consumer, Any]:
    """A consumer that never subscribes, and the group it names: so a transaction can commit the group's offsets."""
    consumer = Consumer(
        {"bootstrap.servers": kafka_url, "group.id": app_id, "enable.auto.commit": False, "log_level": 3}
    )
    return consumer, consumer.consumer_group_metadata()


def _retrying(step: Callable[[float], T], what: str) -> T:
    """Does `step(seconds left)`; tries again while librdkafka says the error is retriable and time is left."""
    end = time.monotonic() + COMMIT_SECONDS
    while True:
        try:
            return step(max(1.0, end - time.monotonic()))
        except KafkaException as error:
            cause = error.args[0]
            if cause.code() in _FENCED:
                raise Fenced(f"{what}: fenced, another worker owns the partition now") from error
            if not cause.retriable() or time.monotonic() >= end:
                raise CommitFailed(f"{what}: {cause.str()}") from error
            time.sleep(0.1)
