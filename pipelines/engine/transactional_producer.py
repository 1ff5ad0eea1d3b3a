"""One transactional producer of librdkafka, from its opening until it is left behind. All methods but `send` block.

Opening it (`fence`) fences whoever had its id before and aborts what that one left open. librdkafka tells three kinds of errors apart:
retriable ones are tried again here, within a bound; what asks for an abort and what is final is for Transactions to decide on.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from pipelines.engine import client_settings
from pipelines.engine.stage import Output
from schemas.kafka_access import KafkaAccess

# after which Kafka ends a transaction by itself: longer than anybody here waits for one, and no longer than it may stand in the way when
# its writer is dead and nothing tells who that was
TRANSACTION_MILLISECONDS = 20_000
LARGEST_RECORD = 4_194_304  # bytes: of a dead letter, which holds a refused record
_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001  # taken back because the transaction failed
Row = tuple[bytes, bytes | None]
T = TypeVar("T")


class Rows(NamedTuple):
    """Changelog rows of one table's partition."""

    topic: str
    partition: int
    changes: Sequence[Row]


class TransactionalProducer:
    """Holds at most one open transaction. `undelivered` says which topic refused a record of it, and why."""

    def __init__(self, *, kafka: KafkaAccess, transactional_id: str) -> None:
        self.undelivered: str | None = None
        # changelog and partition -> the offset after the last row, of the open transaction
        self.ends: dict[tuple[str, int], int] = {}
        self._is_open = False
        self._refused: KafkaException | None = None
        self._producer = Producer(
            {
                **client_settings.settings(kafka, "transactions"),  # its errors come where something is asked of it
                "transactional.id": transactional_id,
                "transaction.timeout.ms": TRANSACTION_MILLISECONDS,
                "partitioner": "murmur2_random",
                # outputs go out while the offsets are told: p95 of a lone record 2.5 ms lower, for 3 % of the rate (measured)
                "linger.ms": 0,
                # the broker still writes the markers of the last transaction when the next one begins; with the default it waits 100 ms
                "retry.backoff.ms": 1,
                "retry.backoff.max.ms": 5,
                "batch.size": 1_000_000,
                "message.max.bytes": LARGEST_RECORD,
                "queue.buffering.max.messages": 2_000_000,
                "queue.buffering.max.kbytes": 1_048_576,
            }
        )

    def connect(self, topic: str, seconds: float) -> None:
        """Connects, so that the fence is quick: librdkafka asks for a coordinator only every 500 ms. `topic` is any that exists."""
        # the first answer comes over the bootstrap connection, the second one over a broker's own
        for _ in range(2):
            self._producer.list_topics(topic, timeout=seconds)

    def fence(self, end: float) -> None:
        """Fences the former owner of the id and aborts what it left open."""
        _retrying(self._producer.init_transactions, end)

    def send(self, outputs: Sequence[Output], rows: Sequence[Rows]) -> None:
        """Adds to the open transaction, opening one first; never blocks for long (the queue is far larger than a transaction)."""
        try:
            self._begin()
            produce = self._producer.produce
            for topic, key, value, partition, headers, _, _ in outputs:
                number = -1 if partition is None else partition
                if headers:
                    produce(topic, value, key, number, headers=list(headers))
                else:
                    produce(topic, value, key, number)
            for topic, partition, changes in rows:
                for key, value in changes[:-1]:
                    produce(topic, value, key, partition)
                for key, value in changes[-1:]:
                    produce(topic, value, key, partition, on_delivery=self._note_end)
        except KafkaException as error:
            self._refused = error  # the transaction has failed in the background; `finish` tells

    def send_again(self, outputs: Sequence[Output], rows: Sequence[Rows]) -> None:
        """Everything once more after an abort, and now each record is asked about: whatever Kafka refuses is named."""
        try:
            self._begin()
            produce = self._producer.produce
            for topic, key, value, partition, headers, _, _ in outputs:
                number = -1 if partition is None else partition
                produce(topic, value, key, number, on_delivery=self._note_end, headers=list(headers) or None)
            for topic, partition, changes in rows:
                for key, value in changes:
                    produce(topic, value, key, partition, on_delivery=self._note_end)
        except KafkaException as error:
            self._refused = error

    def finish(self, positions: Sequence[TopicPartition], group: Any, end: float) -> None:
        """Commits, with these offsets under this metadata of the group, until `end` (time.monotonic()). Raises KafkaException."""
        refused, self._refused = self._refused, None
        if refused is not None:
            raise refused
        if positions:
            _retrying(lambda left: self._producer.send_offsets_to_transaction(list(positions), group, left), end)
        _retrying(self._producer.commit_transaction, end)
        self._is_open = False

    def abort(self, end: float) -> None:
        _retrying(self._producer.abort_transaction, end)
        self._is_open = False

    def close(self) -> None:
        """Lets go of librdkafka's client, whoever still knows this object; takes as long as whatever the client is stuck in."""
        del self._producer

    def flush(self, seconds: float) -> None:
        """Waits until Kafka has what was sent; nothing of it is visible yet."""
        self._producer.flush(seconds)

    def _begin(self) -> None:
        if not self._is_open:
            self.ends = {}
            self.undelivered = None
            self._producer.begin_transaction()
            self._is_open = True

    def _note_end(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.ends[message.topic() or "", message.partition() or 0] = (message.offset() or 0) + 1
        elif not error.retriable() and error.code() not in _PURGED:
            self.undelivered = f"{message.topic()} refused a record: {error.str()}"


def _retrying(step: Callable[[float], T], end: float) -> T:
    """Does `step(seconds left)` until `end` (time.monotonic()); tries again while librdkafka says that the error is retriable."""
    while True:
        try:
            return step(max(1.0, end - time.monotonic()))
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() >= end:
                raise
            time.sleep(0.1)
