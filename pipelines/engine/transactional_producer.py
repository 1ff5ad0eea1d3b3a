"""One transactional producer of librdkafka, from its opening to its closing.

Enters: outputs, changelog rows and offsets. Leaves: one committed or aborted transaction at a time. Opening it (`fence`) fences the
process that had its transactional id before, and aborts what that process left open. librdkafka has three kinds of errors: retriable ones
are tried again here, within a bound; those that need an abort and fatal ones are raised for Transactions.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from pipelines.engine import client_settings
from pipelines.engine.stage import Output
from schemas.kafka_access import KafkaAccess

# Kafka ends a transaction by itself after this time: longer than any wait here, and short enough for a takeover that does not know which
# crashed writer left a transaction open
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
    """Holds at most one open transaction. Not thread-safe: one call at a time.

    `send` and `send_again` do not block for long and raise nothing; the other methods block, within the bound that they are given, and
    raise KafkaException. `undelivered` says which topic refused a record of the open transaction, and why; `refused` has the errors of
    outputs of the last `send_again`, by their position. `ends` is (changelog, partition)
    -> the offset after the last row of the open transaction.
    """

    def __init__(self, *, kafka: KafkaAccess, transactional_id: str) -> None:
        self.undelivered: str | None = None
        self.refused: dict[int, KafkaError] = {}
        self.ends: dict[tuple[str, int], int] = {}
        self._is_open = False
        self._refused: KafkaException | None = None
        self._producer = Producer(
            {
                **client_settings.settings(kafka, "transactions"),  # its errors are raised by the calls
                "transactional.id": transactional_id,
                "transaction.timeout.ms": TRANSACTION_MILLISECONDS,
                "partitioner": "murmur2_random",
                # outputs are sent while the offsets are being added: p95 of a lone record 2.5 ms lower, for 3 % of the rate (measured)
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
        """Connects, so that the fence is quick: librdkafka looks for a coordinator only every 500 ms. `topic` is any topic that exists."""
        # the first answer comes over the bootstrap connection, the second one over the connection to a broker
        for _ in range(2):
            self._producer.list_topics(topic, timeout=seconds)

    def fence(self, end: float) -> None:
        """Fences the former user of the transactional id and aborts what it left open; blocks until `end` (time.monotonic()) at most."""
        _retrying(self._producer.init_transactions, end)

    def send(self, outputs: Sequence[Output], rows: Sequence[Rows]) -> None:
        """Adds to the open transaction, and begins one if none is open. Does not block for long: the queue is far larger than a
        transaction. An error is kept for `finish`."""
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
            self._refused = error  # the transaction has failed in the background; `finish` raises it

    def send_again(self, outputs: Sequence[Output], rows: Sequence[Rows]) -> None:
        """As `send`, for the same records after an abort, but with a delivery report for each record, so that `undelivered` names a topic
        that refuses one."""
        self.refused = {}
        try:
            self._begin()
            produce = self._producer.produce
            for position, (topic, key, value, partition, headers, _, _) in enumerate(outputs):
                number = -1 if partition is None else partition
                noted = partial(self._note_output, position)
                produce(topic, value, key, number, on_delivery=noted, headers=list(headers) or None)
            for topic, partition, changes in rows:
                for key, value in changes:
                    produce(topic, value, key, partition, on_delivery=self._note_end)
        except KafkaException as error:
            self._refused = error

    def finish(self, positions: Sequence[TopicPartition], group: Any, end: float) -> None:
        """Commits, with these offsets in the name of this member of the group (Member.metadata). Blocks until `end` (time.monotonic()) at
        most. Raises KafkaException; then the transaction may still be open, and its outcome may be unknown."""
        refused, self._refused = self._refused, None
        if refused is not None:
            raise refused
        if positions:
            _retrying(lambda left: self._producer.send_offsets_to_transaction(list(positions), group, left), end)
        _retrying(self._producer.commit_transaction, end)
        self._is_open = False

    def abort(self, end: float) -> None:
        """Aborts the open transaction; blocks until `end` (time.monotonic()) at most. Raises KafkaException."""
        _retrying(self._producer.abort_transaction, end)
        self._is_open = False

    def close(self) -> None:
        """Closes librdkafka's client, although other objects may still refer to this one. Blocks as long as the client is stuck in a
        call."""
        del self._producer

    def flush(self, seconds: float) -> None:
        """Blocks until Kafka has what was sent, `seconds` at most; readers see nothing of it yet. Raises
        KafkaException after a fatal error."""
        try:
            self._producer.flush(seconds)
        except SystemError as error:
            # confluent-kafka calls a delivery report while it already has the exception of a fatal error, which then is the cause
            if isinstance(error.__cause__, KafkaException):
                raise error.__cause__ from None
            raise

    def _begin(self) -> None:
        if not self._is_open:
            self.ends = {}
            self.undelivered = None
            self._producer.begin_transaction()
            self._is_open = True

    def _note_output(self, position: int, error: KafkaError | None, message: Message) -> None:
        self._note_end(error, message)
        if error is not None and error.code() not in _PURGED:
            self.refused[position] = error

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
