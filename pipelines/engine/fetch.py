"""Source records from Kafka, off the event loop: one confluent-kafka consumer in a thread of its own.

Enters: partitions and the offsets from which to read. Leaves: their records in offset order, `read_committed`, and where each partition
ends, markers of transactions included. Faust's group decides which partitions this worker has. Guaranteed: memory is bounded. While every
partition has enough records to take, nothing is read; a partition whose records are not taken is paused only while another one needs
records. The thread waits for one record and then takes all that are there, so that a lone record is not delayed. It is also the first to
notice that the connection to Kafka was lost.

The client fetches at one of three paces; for another pace a new client is opened. Calm: the broker holds a fetch of idle sources for as
long as the stage says. Quick: an assignment or a resumed partition would have to wait for the fetch that the broker holds, so that fetches
are short until nothing has changed for a while. Gathering: while records arrive all the time, a fetch is answered after some milliseconds
with all records of that time, because a fetch costs the broker the same for one record and for a hundred.
"""

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Literal

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from pipelines.engine import client_settings
from pipelines.engine.client_settings import PASSING
from pipelines.engine.poison import raised_where
from pipelines.engine.stage import Record
from schemas.kafka_access import KafkaAccess

TopicPart = tuple[str, int]
Pace = Literal["calm", "quick", "gathering"]
log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.25
_UNASSIGNED_POLL_SECONDS = 0.05  # an assignment must not wait for an idle poll
_QUICK_WAIT_MS = 25  # for which the broker holds a fetch at the quick pace
_CALM_SECONDS = 5.0  # from the last assignment, paused partition or busy second to the calm pace
_BUSY = 40  # fetches a second that brought records, from which on gathering saves work
_STILL_BUSY = 10  # the same while gathering, when there are fewer fetches
_GATHER_BYTES = 65_536  # with so many bytes the broker answers at once
_PAUSED_POLL_SECONDS = 0.01  # a paused partition must not wait for an idle poll to be resumed
_CHUNK = 5000
_new = tuple.__new__  # half the cost of calling a NamedTuple, once for every record
_TAKE_BYTES = 8 << 20  # of a batch, so that a turn of large records has few of them
_MOST_BYTES = 32 << 20  # of fetched records of a partition, above which no more of it are fetched
UNREADABLE = "chat4all-unreadable-headers"
_ASK_SECONDS = 0.2  # for an answer of a broker that was unavailable
_QUIET_SECONDS = 1.0  # after its answer, in which reports of the loss are old
_LOG_SECONDS = 10.0  # between two log lines about other errors of the connection
_FULL_POLL_SECONDS = 0.05  # the longest delay of a new assignment while nothing is read


class OffsetGone(Exception):
    """The next offset of a partition is not in Kafka."""


class Fetch:
    """Reads the assigned source partitions. Made in the event loop; its thread starts at once.

    No method blocks; all but `stop` may be called from any thread. At a rebalance `assign` replaces all partitions and forgets what was
    fetched. `pause_above`: with more records than this waiting, no more of a partition are fetched. `wait_ms` is for how long the broker
    holds a fetch while nothing arrives; with `min_bytes` it answers at once. `gather_ms` is the same while records arrive all the time; 0
    never gathers.

    The callbacks run in the event loop: `on_records` when there are records or a partition was read to its end, `on_failure(reason)` when
    reading has stopped for good (a position that is no longer in Kafka, or an error that is not temporary), `on_lost` and `on_found` when
    the connection to Kafka was lost and Kafka answers again.
    """

    def __init__(
        self,
        *,
        kafka: KafkaAccess,
        group: str,
        pause_above: int,
        min_bytes: int,
        wait_ms: int,
        gather_ms: int = 0,
        on_records: Callable[[], None],
        on_failure: Callable[[str], None],
        on_lost: Callable[[], None],
        on_found: Callable[[], None],
    ) -> None:
        self._consumer_settings = {
            **client_settings.settings(kafka, "fetch"),  # `_note_error` logs what happens to the connection
            "error_cb": self._note_error,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",  # a position that is not there means loss: never skip or repeat records silently
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.error.backoff.ms": 100,
            "queued.max.messages.kbytes": 65_536,
        }
        self._paces: dict[Pace, dict[str, int]] = {
            "calm": {"fetch.wait.max.ms": wait_ms, "fetch.min.bytes": min_bytes},
            "quick": {"fetch.wait.max.ms": _QUICK_WAIT_MS},
            "gathering": {"fetch.wait.max.ms": gather_ms, "fetch.min.bytes": max(min_bytes, _GATHER_BYTES)},
        }
        self._gathers = gather_ms > 0
        self._pause_above = pause_above
        self._on_records = on_records
        self._on_failure = on_failure
        self._on_lost = on_lost
        self._on_found = on_found
        self._disconnected = False  # whether the connection was lost and Kafka has not answered since
        self._reconnected_at = 0.0
        self._logged_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._taken = threading.Event()
        self._wanted: dict[TopicPart, int] | None = None
        self._pending: dict[TopicPart, deque[Record]] = {}
        self._bytes: dict[TopicPart, int] = {}  # of the pending records' values
        self._fetched: Counter[TopicPart] = Counter()  # records since `assign`
        self._next: dict[TopicPart, int] = {}  # the offset to be fetched next, as far as it is known
        self._ended: dict[TopicPart, int] = {}  # where a partition ended, when it was read to its end last
        self._paused: set[TopicPart] = set()
        self._pace: Pace = "calm"
        self._until = 0.0  # until then the pace is kept, unless it is calm; time.monotonic()
        self._busy = False
        self._arrivals = 0  # fetches that brought records, since `_counted_at`
        self._counted_at = time.monotonic()
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
            self._bytes = dict.fromkeys(positions, 0)
            self._next = dict(positions)
            self._fetched.clear()
            self._ended.clear()

    def caught_up(self, tp: TopicPart) -> bool:
        """Whether the partition was read to its end at least once since `assign`, and no fetched record of it waits."""
        with self._lock:
            return tp in self._ended and not self._pending.get(tp)

    def end(self, tp: TopicPart) -> int | None:
        """Where the partition ends, after every marker, if it was read to there and no fetched record of it waits; else None."""
        with self._lock:
            end = self._ended.get(tp)
            return None if self._pending.get(tp) or end != self._next.get(tp) else end

    def is_read_to(self, tp: TopicPart, end: int) -> bool:
        """Whether the partition was fetched up to this offset, and no fetched record of it waits."""
        with self._lock:
            return not self._pending.get(tp) and self._next.get(tp, 0) >= end

    def fetched(self, tp: TopicPart) -> int:
        """How many records of a partition were fetched since `assign`."""
        return self._fetched[tp]

    def unread(self, tp: TopicPart, stable_end: int) -> int:
        """How many offsets up to `stable_end`, the last stable offset, were not fetched yet; markers among them count too."""
        with self._lock:
            return max(0, stable_end - self._next.get(tp, stable_end))

    def take(self, tp: TopicPart, at_most: int) -> list[Record]:
        """Removes and returns up to `at_most` records of a partition, in offset order, fewer when they are large; empty when none wait."""
        with self._lock:
            pending = self._pending.get(tp)
            if not pending:
                return []
            self._taken.set()
            if len(pending) <= at_most and self._bytes[tp] <= _TAKE_BYTES:
                taken = list(pending)
                pending.clear()
                self._bytes[tp] = 0
                return taken
            taken, size = [], 0
            while pending and len(taken) < at_most and size < _TAKE_BYTES:
                record = pending.popleft()
                taken.append(record)
                size += len(record.value or b"")
            self._bytes[tp] -= size
            return taken

    def waiting(self) -> list[TopicPart]:
        """Partitions that have records to take."""
        with self._lock:
            return [tp for tp, pending in self._pending.items() if pending]

    async def stop(self) -> None:
        """Ends the thread; waits for it for 10 s at most."""
        self._stopping = True
        await asyncio.to_thread(self._thread.join, 10.0)

    def _run(self) -> None:
        consumer = self._open("calm")
        try:
            while not self._stopping:
                consumer = self._step(consumer)
        except OffsetGone as error:
            self._call_in_loop(self._on_failure, str(error))
        except Exception as error:  # noqa: BLE001  # an error that ends this thread must end the worker
            self._call_in_loop(self._on_failure, f"fetching stopped: {raised_where(error)}")
        finally:
            consumer.close()

    def _step(self, consumer: Consumer) -> Consumer:
        """Reads once. Returns the client for the next step."""
        with self._lock:
            wanted, self._wanted = self._wanted, None
            epoch = self._epoch
            assigned = bool(self._pending)
        if wanted:
            consumer = self._reopen(consumer, wanted, "quick")
        elif wanted is not None:
            consumer.unassign()
            self._paused.clear()
        if self._disconnected:
            self._try_kafka(consumer)
        if self._has_enough():
            self._taken.wait(_FULL_POLL_SECONDS)
            return consumer
        consumer = self._regulate(consumer)
        first = consumer.poll(self._poll_seconds(assigned=assigned))
        if first is not None:
            self._deliver([first, *consumer.consume(_CHUNK, 0)], epoch)
        return consumer

    def _poll_seconds(self, *, assigned: bool) -> float:
        if self._paused:
            return _PAUSED_POLL_SECONDS
        return _POLL_SECONDS if assigned else _UNASSIGNED_POLL_SECONDS

    def _open(self, pace: Pace) -> Consumer:
        self._pace = pace
        self._until = time.monotonic() + _CALM_SECONDS
        return Consumer({**self._consumer_settings, **self._paces[pace]})

    def _reopen(self, consumer: Consumer, positions: Mapping[TopicPart, int], pace: Pace) -> Consumer:
        """A new client at these positions, with no partition paused."""
        consumer.close()
        self._paused.clear()
        consumer = self._open(pace)
        consumer.assign([TopicPartition(topic, partition, offset) for (topic, partition), offset in positions.items()])
        return consumer

    def _deliver(self, messages: list[Message], epoch: int) -> None:
        by_partition: dict[TopicPart, list[Record]] = {}
        ended: dict[TopicPart, int] = {}
        for message in messages:
            source = (message.topic() or "", message.partition() or 0)
            error = message.error()
            if error is None:
                records = by_partition.get(source)
                if records is None:
                    records = by_partition[source] = []
                records.append(_record(source, message))
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # librdkafka's own code has no public name
                ended[source] = message.offset() or 0
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001  # librdkafka's own code has no public name
                raise OffsetGone(
                    f"{source[0]} {source[1]} no longer has the offset to read next ({error.str()}): deleted by retention, or the "
                    "topic was created again; the next start says which offsets are lost, or what to do"
                )
            elif not (error.retriable() or error.code() in PASSING):
                raise KafkaException(error)
        with self._lock:
            if epoch != self._epoch:
                return  # fetched for a former assignment; the new one starts at its own positions
            for tp, records in by_partition.items():
                self._pending[tp].extend(records)
                self._bytes[tp] += sum([len(record.value or b"") for record in records])
                self._fetched[tp] += len(records)
                self._next[tp] = records[-1].offset + 1
            news = bool(by_partition) or not ended.keys() <= self._ended.keys()
            self._ended.update(ended)
            for tp, end in ended.items():
                self._next[tp] = max(self._next[tp], end)
        self._arrivals += bool(by_partition)
        if news:
            self._call_in_loop(self._on_records)

    def _has_enough(self) -> bool:
        """Whether every partition has at least half of what it may hold. Then nothing is read and nothing is paused: a pause discards what
        librdkafka has fetched ahead, and to pause all partitions at once stops reading for most of a second."""
        with self._lock:
            self._taken.clear()
            return bool(self._pending) and all(
                2 * len(pending) > self._pause_above or 2 * self._bytes[tp] > _MOST_BYTES
                for tp, pending in self._pending.items()
            )

    def _regulate(self, consumer: Consumer) -> Consumer:
        """Pauses partitions that are full while others need records, and resumes them when they are half empty. Returns the client for the
        next step: with the calm pace a resumed partition would wait for the fetch of idle ones."""
        with self._lock:
            # how full each is: its records or its bytes, as a share of what it may hold
            shares = {
                tp: max(len(pending) / self._pause_above, self._bytes[tp] / _MOST_BYTES)
                for tp, pending in self._pending.items()
            }
            positions = dict(self._next)
        full = {tp for tp, share in shares.items() if share > 1} - self._paused
        empty = {tp for tp in self._paused if 2 * shares.get(tp, 0.0) < 1}
        self._measure_load()
        if full and self._pace == "calm":
            consumer = self._reopen(consumer, positions, "quick")
        elif not (full or self._paused) and (pace := self._wanted_pace()) != self._pace:
            consumer = self._reopen(consumer, positions, pace)
        if full:
            consumer.pause([TopicPartition(*tp) for tp in full])
            self._paused |= full
        if empty:
            consumer.resume([TopicPartition(*tp) for tp in empty])
            self._paused -= empty
        if self._paused:
            self._until = time.monotonic() + _CALM_SECONDS
        return consumer

    def _wanted_pace(self) -> Pace:
        if self._pace != "calm" and time.monotonic() <= self._until:
            return self._pace
        return "gathering" if self._busy else "calm"

    def _measure_load(self) -> None:
        """Counts, once a second, whether records arrive all the time."""
        now = time.monotonic()
        if not self._gathers or now - self._counted_at < 1.0:
            return
        rate = self._arrivals / (now - self._counted_at)
        self._busy = rate > (_STILL_BUSY if self._pace == "gathering" else _BUSY)
        if self._busy and self._pace == "gathering":
            self._until = now + _CALM_SECONDS
        self._arrivals, self._counted_at = 0, now

    def _note_error(self, error: KafkaError) -> None:
        """Called by librdkafka in this thread, while it is polled."""
        if (
            error.code() in PASSING
            and not self._disconnected
            and time.monotonic() - self._reconnected_at > _QUIET_SECONDS
        ):
            self._disconnected = True
            log.warning("connection to Kafka lost", error=error.str())
            self._call_in_loop(self._on_lost)
        elif error.code() not in PASSING and time.monotonic() - self._logged_at > _LOG_SECONDS:
            self._logged_at = time.monotonic()
            log.error("Kafka's client has a problem", error=error.str())

    def _try_kafka(self, consumer: Consumer) -> None:
        try:
            consumer.list_topics("__consumer_offsets", timeout=_ASK_SECONDS)
        except KafkaException:
            return
        self._disconnected = False
        self._reconnected_at = time.monotonic()
        log.info("Kafka answers again")
        self._call_in_loop(self._on_found)

    def _call_in_loop(self, callback: Callable[..., None], *arguments: str) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            log.debug("the event loop has closed", part="fetch")


def _record(source: TopicPart, message: Message) -> Record:
    topic, partition = source
    try:
        headers = message.headers() or ()
        # the client may leave an error set instead of raising it; then the next C call raises it, which is here
        return _new(
            Record,
            (topic, partition, message.offset(), message.timestamp()[1], message.key(), message.value(), headers),
        )
    except (SystemError, UnicodeError) as error:
        offset = message.offset() or 0
        log.warning("headers not readable", topic=topic, offset=offset, error=type(error).__name__)
        unreadable = ((UNREADABLE, b"their names are not UTF-8"),)
        return _new(
            Record, (topic, partition, offset, message.timestamp()[1], message.key(), message.value(), unreadable)
        )
