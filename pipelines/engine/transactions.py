"""One transactional producer per (stage, partition), and the commit of a turn.

Opening a producer (`init_transactions`) fences whoever held the partition before and aborts what it left open; a zombie can
write nothing more. A turn's outputs, changelog rows and source offsets commit together. librdkafka tells three kinds of errors
apart: retriable ones are tried again, abortable ones are aborted and done again, both within a bound; every other one raises
Fenced or CommitFailed, and the memory, which is ahead of Kafka then, must not be used any more.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from pipelines.engine.stage import Output

COMMIT_SECONDS = 15.0
# librdkafka 2.16 does not always keep to the time-outs it is given (confluentinc/librdkafka#5456, #5511)
OVERTIME_SECONDS = 3.0
_FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED})  # noqa: SLF001  # librdkafka's own code has no public name
_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001  # taken back because the transaction failed
T = TypeVar("T")
Rows = tuple[str, int, Sequence[tuple[bytes, bytes | None]]]  # changelog, partition, rows
log = structlog.get_logger(__name__)


class CommitFailed(Exception):
    """A transaction could not be committed; nothing of it is visible."""


class Fenced(CommitFailed):
    """Another worker has taken the partition over; nothing of this turn is visible."""


class Transactions:
    """The transactional producer of one partition of one stage. All methods but `produce` block: call them from a thread."""

    def __init__(self, *, kafka_url: str, app_id: str, partition: int, group: Any, mark: str = "") -> None:
        """`mark` goes along with every committed offset, as its metadata."""
        self.id = f"{app_id}-{partition}"
        self._mark = mark
        self._group = group
        self._is_open = False
        # what the open transaction holds, to do it again after an abort
        self._outputs: list[Output] = []
        self._rows: list[Rows] = []
        self._refused: KafkaException | None = None
        self._undelivered: str | None = None
        self._ends: dict[str, int] = {}
        self._producer = Producer(
            {
                "bootstrap.servers": kafka_url,
                "transactional.id": self.id,
                "transaction.timeout.ms": 60_000,
                "partitioner": "murmur2_random",
                # outputs go out while the offsets are told: p95 of a lone record 2.5 ms lower, for 3 % of the rate (measured)
                "linger.ms": 0,
                "batch.size": 1_000_000,
                "message.max.bytes": 4_194_304,  # a dead letter holds a refused record of any size
                "queue.buffering.max.messages": 2_000_000,
                "queue.buffering.max.kbytes": 1_048_576,
                "log_level": 3,
            }
        )

    def connect(self, topic: str) -> None:
        """Connects, so that the fence is quick: librdkafka asks for a coordinator only every 500 ms. `topic` is any that exists."""
        try:
            # the first answer comes over the bootstrap connection, the second one over a broker's own
            for _ in range(2):
                self._producer.list_topics(topic, timeout=COMMIT_SECONDS)
        except KafkaException as error:
            raise CommitFailed(f"{self.id}: {error.args[0].str()}") from error

    def fence(self) -> None:
        """Fences the former owner and aborts what it left open."""
        try:
            _retrying(self._producer.init_transactions, time.monotonic() + COMMIT_SECONDS)
        except KafkaException as error:
            raise _failed(error.args[0], f"{self.id}: init_transactions") from error

    def produce(self, outputs: Sequence[Output]) -> None:
        """Adds outputs to the open transaction, opening one first; never blocks for long (the queue is far larger than a turn)."""
        self._outputs += outputs
        self._send(outputs, ())

    def produce_rows(self, topic: str, partition: int, rows: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Adds changelog rows to the transaction that `produce` opened."""
        changes = [(topic, partition, rows)]
        self._rows += changes
        self._send((), changes)

    def commit(self, offsets: Mapping[tuple[str, int], int]) -> Mapping[str, int]:
        """Commits the open transaction with the source offsets of the turn; returns, for each changelog written to, the offset
        after its last row. Raises Fenced or CommitFailed: nothing is visible then.

        Where librdkafka asks for it, the transaction is aborted and done again, the same records in the same order.
        """
        end = time.monotonic() + COMMIT_SECONDS
        while True:
            try:
                self._finish(offsets, end)
                break
            except KafkaException as error:
                cause = error.args[0]
                if self._undelivered or not cause.txn_requires_abort() or time.monotonic() >= end:
                    raise _failed(cause, f"{self.id}: commit", self._undelivered) from error
                log.warning("transaction aborted, done again", transaction=self.id, cause=cause.str())
                self._abort(end)
                self._send_again()
        self._is_open = False
        self._outputs, self._rows = [], []
        ends, self._ends = self._ends, {}
        return ends

    def _send(self, outputs: Sequence[Output], rows: Sequence[Rows]) -> None:
        try:
            if not self._is_open:
                self._producer.begin_transaction()
                self._is_open = True
            produce = self._producer.produce
            for topic, key, value, partition, headers in outputs:
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
            self._refused = error  # the transaction has failed in the background; commit() decides what becomes of it

    def _send_again(self) -> None:
        """Everything once more, and now each record is asked about: whatever Kafka refuses is named."""
        try:
            self._producer.begin_transaction()
            self._is_open = True
            produce = self._producer.produce
            for topic, key, value, partition, headers in self._outputs:
                number = -1 if partition is None else partition
                produce(topic, value, key, number, on_delivery=self._note_end, headers=list(headers) or None)
            for topic, partition, changes in self._rows:
                for key, value in changes:
                    produce(topic, value, key, partition, on_delivery=self._note_end)
        except KafkaException as error:
            self._refused = error

    def _note_end(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._ends[message.topic() or ""] = (message.offset() or 0) + 1
        elif not error.retriable() and error.code() not in _PURGED:
            self._undelivered = f"{message.topic()} refused a record: {error.str()}"

    def _finish(self, offsets: Mapping[tuple[str, int], int], end: float) -> None:
        refused, self._refused = self._refused, None
        if refused is not None:
            raise refused
        if offsets:
            positions = [
                TopicPartition(topic, partition, offset, self._mark) for (topic, partition), offset in offsets.items()
            ]
            _retrying(lambda left: self._producer.send_offsets_to_transaction(positions, self._group, left), end)
        _retrying(self._producer.commit_transaction, end)

    def _abort(self, end: float) -> None:
        try:
            _retrying(self._producer.abort_transaction, end)
        except KafkaException as error:
            raise _failed(error.args[0], f"{self.id}: abort") from error
        self._is_open = False


def group_metadata(kafka_url: str, app_id: str) -> tuple[Consumer, Any]:
    """A consumer that never subscribes, and the group it names: so a transaction can commit the group's offsets."""
    consumer = Consumer(
        # silent: it exists before anything is asked of Kafka, and Fetch says what happens to the connection
        {"bootstrap.servers": kafka_url, "group.id": app_id, "enable.auto.commit": False, "log_level": 0}
    )
    return consumer, consumer.consumer_group_metadata()


def _retrying(step: Callable[[float], T], end: float) -> T:
    """Does `step(seconds left)` until `end` (time.monotonic()); tries again while librdkafka says that the error is retriable."""
    while True:
        try:
            return step(max(1.0, end - time.monotonic()))
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() >= end:
                raise
            time.sleep(0.1)


async def in_time(what: str, step: Awaitable[T]) -> T:
    """Awaits a step that has a time-out of its own, COMMIT_SECONDS, and does not wait for ever when that is not kept."""
    seconds = COMMIT_SECONDS + OVERTIME_SECONDS
    try:
        return await asyncio.wait_for(step, seconds)
    except TimeoutError as error:
        raise CommitFailed(f"{what}: no answer from Kafka's client in {seconds:.0f} s") from error


def _failed(cause: KafkaError, what: str, why: str | None = None) -> CommitFailed:
    if cause.code() in _FENCED:
        return Fenced(f"{what}: fenced, somebody else has opened {what.partition(':')[0]}")
    return CommitFailed(f"{what}: {why or cause.str()}")
