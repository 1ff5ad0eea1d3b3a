"""Source records from Kafka, off the event loop: one confluent-kafka consumer in a thread of its own.

Faust's group decides which partitions are ours; this thread only reads them, `read_committed`, from the positions it is given.
It waits for one record and then takes all that are there, so a lone record is as fast as a full batch is large. While every
partition has enough to take nothing is read; a partition whose records are not taken is paused only where another one is short.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from pipelines.engine.stage import Record

TopicPart = tuple[str, int]
log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.1
_PAUSED_POLL_SECONDS = 0.01  # a paused partition must not wait for an idle poll to be resumed
_CHUNK = 5000
_new = tuple.__new__  # half the price of calling a NamedTuple, once for every record
_FULL_POLL_SECONDS = 0.05  # how long a fetch that has enough may sleep through a new assignment
# librdkafka reconnects by itself; a broker that stays away shows as commits that fail
_PASSING = frozenset({KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._TIMED_OUT})  # noqa: SLF001  # no public names


class OutOfReach(Exception):
    """The next offset of a partition is not in Kafka."""


class Fetch:
    """Reads assigned source partitions. `on_records` and `on_failure` are called in the event loop."""

    def __init__(
        self,
        *,
        kafka_url: str,
        group: str,
        pause_above: int,
        on_records: Callable[[], None],
        on_failure: Callable[[str], None],
    ) -> None:
        self._consumer_settings = {
            "bootstrap.servers": kafka_url,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",  # a position that is not there is loss: nothing is skipped or read again in silence
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 100,
            "fetch.error.backoff.ms": 100,
            "queued.max.messages.kbytes": 65_536,
            "log_level": 3,
        }
        self._pause_above = pause_above
        self._on_records = on_records
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._taken = threading.Event()
        self._wanted: dict[TopicPart, int] | None = None
        self._pending: dict[TopicPart, deque[Record]] = {}
        self._ended: set[TopicPart] = set()
        self._paused: set[TopicPart] = set()
        self._epoch = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="fetch", daemon=True)
        self._thread.start()

    def assign(self, positions: Mapping[TopicPart, int]) -> None:
        """Reads exactly these partitions from these offsets; everything fetched before is forgotten."""
        with self._lock:
            self._wanted = dict(positions)
            self._epoch += 1
            self._pending = {tp: deque() for tp in positions}
            self._ended.clear()

    def caught_up(self, tp: TopicPart) -> bool:
        """Whether the partition was read to its end at least once since `assign`, and all of it was taken."""
        with self._lock:
            return tp in self._ended and not self._pending.get(tp)

    def take(self, tp: TopicPart, at_most: int) -> list[Record]:
        """Up to `at_most` records of a partition, in offset order; empty when there are none."""
        with self._lock:
            pending = self._pending.get(tp)
            if not pending:
                return []
            self._taken.set()
            if len(pending) <= at_most:
                taken = list(pending)
                pending.clear()
                return taken
            return [pending.popleft() for _ in range(at_most)]

    def waiting(self) -> list[TopicPart]:
        """Partitions that have records to take."""
        with self._lock:
            return [tp for tp, pending in self._pending.items() if pending]

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.to_thread(self._thread.join, 10.0)

    def _run(self) -> None:
        consumer = Consumer(self._consumer_settings)
        try:
            while not self._stopping:
                self._step(consumer)
        except OutOfReach as error:
            self._tell(self._on_failure, str(error))
        except Exception as error:  # noqa: BLE001  # whatever ends this thread must end the worker, loudly
            self._tell(self._on_failure, f"fetching stopped: {type(error).__name__}: {error}")
        finally:
            consumer.close()

    def _step(self, consumer: Consumer) -> None:
        with self._lock:
            wanted, self._wanted = self._wanted, None
            epoch = self._epoch
        if wanted is not None:
            # librdkafka keeps a partition paused when it is assigned anew, and nobody would resume it
            consumer.resume([TopicPartition(*tp) for tp in self._paused])
            self._paused.clear()
            consumer.assign([TopicPartition(topic, partition, offset) for (topic, partition), offset in wanted.items()])
        if self._has_enough():
            self._taken.wait(_FULL_POLL_SECONDS)
            return
        self._regulate(consumer)
        first = consumer.poll(_PAUSED_POLL_SECONDS if self._paused else _POLL_SECONDS)
        if first is not None:
            self._deliver([first, *consumer.consume(_CHUNK, 0)], epoch)

    def _deliver(self, messages: list[Message], epoch: int) -> None:
        by_partition: dict[TopicPart, list[Record]] = {}
        ended: set[TopicPart] = set()
        for message in messages:
            source = (message.topic() or "", message.partition() or 0)
            error = message.error()
            if error is None:
                records = by_partition.get(source)
                if records is None:
                    records = by_partition[source] = []
                records.append(_record(source, message))
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # librdkafka's own code has no public name
                ended.add(source)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001  # librdkafka's own code has no public name
                raise OutOfReach(
                    f"{source[0]} {source[1]} has no record any more where reading stood ({error.str()}): deleted by retention, or the "
                    "topic is another one; the next start says which offsets are lost, or what to do"
                )
            elif not (error.retriable() or error.code() in _PASSING):
                raise KafkaException(error)
        with self._lock:
            if epoch != self._epoch:
                return  # fetched for an assignment that is gone; the new one starts at its own positions
            for tp, records in by_partition.items():
                self._pending[tp].extend(records)
            news = bool(by_partition) or not ended <= self._ended
            self._ended |= ended
        if news:
            self._tell(self._on_records)

    def _has_enough(self) -> bool:
        """Whether every partition has at least half of what it may hold. Then nothing is read and nothing is paused: a pause
        throws away what librdkafka has fetched ahead, and doing so to all at once stands still for most of a second."""
        with self._lock:
            self._taken.clear()
            return bool(self._pending) and all(
                2 * len(pending) > self._pause_above for pending in self._pending.values()
            )

    def _regulate(self, consumer: Consumer) -> None:
        """Pauses partitions nobody takes from while others are short, resumes them once they are half empty."""
        with self._lock:
            sizes = {tp: len(pending) for tp, pending in self._pending.items()}
        full = {tp for tp, size in sizes.items() if size > self._pause_above} - self._paused
        empty = {tp for tp in self._paused if 2 * sizes.get(tp, 0) < self._pause_above}
        if full:
            consumer.pause([TopicPartition(*tp) for tp in full])
            self._paused |= full
        if empty:
            consumer.resume([TopicPartition(*tp) for tp in empty])
            self._paused -= empty

    def _tell(self, callback: Callable[..., None], *arguments: str) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            log.debug("the event loop has closed", part="fetch")


def _record(source: TopicPart, message: Message) -> Record:
    headers = message.headers()
    fields = (
        *source,
        message.offset() or 0,
        message.timestamp()[1],
        message.key(),
        message.value(),
        headers if isinstance(headers, list) else (),
    )
    return _new(Record, fields)
