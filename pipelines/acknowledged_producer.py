"""Produces from an event loop and waits for Kafka's acknowledgement, so that the gateway can answer 200.

In: records. Out: those that Kafka can never store (produce_errors.py). Guaranteed: all in-sync replicas have acknowledged every other
record, or NotAcknowledged is raised. After a fatal error the producer is replaced by a new one.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pipelines import produce_errors
from pipelines.engine import client_settings
from schemas.catalog import TOPICS, record_bytes
from schemas.kafka_access import KafkaAccess

LOG_SECONDS = 10.0  # at least, between two log lines about the client
ACKNOWLEDGE_SECONDS = 8.0  # less than the time-out of providers for a webhook, about 10 s
LARGEST_RECORD = max(topic.max_bytes for topic in TOPICS.values())
log = structlog.get_logger(__name__)


class OutgoingRecord(NamedTuple):
    """A record to produce. With `partition` None, Kafka's partitioner chooses by the hash of the key."""

    topic: str
    key: bytes
    value: bytes
    partition: int | None = None


class NotAcknowledged(Exception):
    """Kafka did not acknowledge a record in time. The record may or may not be in its topic."""


class RefusedRecord(NamedTuple):
    """A record that Kafka can never store. `cause` is a code of schemas/causes.py, `detail` a sentence."""

    record: OutgoingRecord
    cause: str
    detail: str


class _Batch:
    """The records of one call that waits: how many are not acknowledged yet, and the errors by number of the record."""

    __slots__ = ("_left", "ended", "errors")

    def __init__(self, records: int, ended: "asyncio.Future[None]") -> None:
        self._left = records
        self.ended = ended  # done as soon as every record is acknowledged or failed
        self.errors: dict[int, KafkaError] = {}

    def finish(self, number: int, error: KafkaError | None) -> None:
        """On the event loop, once for each record."""
        if error is not None:
            self.errors[number] = error
        self._left -= 1
        if not self._left and not self.ended.done():
            self.ended.set_result(None)


class AcknowledgedProducer:
    """An idempotent producer (acks=all) whose acknowledgements can be awaited on `loop`.

    Call `produce` and `close` on that loop; they never block it. A thread of its own polls librdkafka for acknowledgements and
    replaces the producer after a fatal error. The producer collects records for `linger_ms` before a request, because a
    request costs about the same however many records it carries. `more` are further settings of librdkafka, with `_` for `.`.
    """

    def __init__(self, kafka: KafkaAccess, loop: asyncio.AbstractEventLoop, *, linger_ms: int = 5, **more: Any) -> None:
        self._loop = loop
        own: dict[str, Any] = {
            "partitioner": "murmur2_random",
            "enable_idempotence": True,
            "linger_ms": linger_ms,
            "delivery_timeout_ms": int(ACKNOWLEDGE_SECONDS * 1000),
            "message_max_bytes": LARGEST_RECORD,
        }
        self._settings = client_settings.settings(kafka, "gateway", **(own | more))
        # acknowledgements that the event loop has not taken yet
        self._reported: deque[tuple[int, _Batch, KafkaError | None]] = deque()
        self.opened = 0  # how many producers were created so far
        self._logged_at = -LOG_SECONDS
        self._producer = self._open()
        self._is_broken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="acknowledgements", daemon=True)
        self._thread.start()

    async def produce(self, records: Sequence[OutgoingRecord]) -> list[RefusedRecord]:
        """Produces the records in order and waits until all replicas acknowledged them. Returns those that Kafka can never store.

        Raises NotAcknowledged when Kafka does not acknowledge a record within ACKNOWLEDGE_SECONDS, or when the local queue is full;
        each record may then be in its topic or not."""
        unfit = [found for record in records if (found := too_large(record)) is not None]
        if unfit:
            refused = {id(found.record) for found in unfit}
            records = [record for record in records if id(record) not in refused]
        return unfit + await self._produce(records)

    async def close(self) -> None:
        """Waits at most ACKNOWLEDGE_SECONDS for open acknowledgements, stops the thread and releases Kafka's client."""
        await asyncio.to_thread(self._serve, self._producer.flush, ACKNOWLEDGE_SECONDS)
        self._stopping.set()
        await asyncio.to_thread(self._thread.join)
        del self._producer

    async def _produce(self, records: Sequence[OutgoingRecord]) -> list[RefusedRecord]:
        """As `produce`. The broker refuses a whole batch because of one record, so refused records are retried in halves."""
        if not records:
            return []
        batch = _Batch(len(records), self._loop.create_future())
        for number, record in enumerate(records):
            self._send(record, number, batch)
        await batch.ended
        if not batch.errors:
            return []
        refused, again = [], []
        for number, error in sorted(batch.errors.items()):
            record = records[number]
            if len(records) > 1 and produce_errors.is_of_the_batch(error):
                again.append(record)
            elif (cause := produce_errors.cause(error)) is None:
                raise NotAcknowledged(error.str())
            else:
                refused.append(RefusedRecord(record, cause, f"topic {record.topic} does not take it: {error.str()}"))
        middle = (len(again) + 1) // 2
        for half in filter(None, (again[:middle], again[middle:])):
            refused += await self._produce(half)
        return refused

    def _send(self, record: OutgoingRecord, number: int, batch: "_Batch") -> None:
        topic, key, value, partition = record
        callback = partial(self._acknowledged, number, batch)
        try:
            self._producer.produce(topic, value, key, -1 if partition is None else partition, on_delivery=callback)
        except BufferError:
            batch.finish(number, KafkaError(KafkaError._QUEUE_FULL))  # noqa: SLF001  # names of librdkafka's own errors begin with _
        except KafkaException as error:
            self._note(error.args[0])
            batch.finish(number, error.args[0])

    def _acknowledged(self, number: int, batch: "_Batch", error: KafkaError | None, _: Message) -> None:
        """Called by librdkafka, in the thread that polls."""
        self._note(error)
        self._reported.append((number, batch, error))

    def _pass_on(self) -> None:
        """On the event loop: ends the calls whose records are all acknowledged. Called once for many acknowledgements, because each call
        wakes the loop, which then takes the interpreter from the thread for milliseconds."""
        while self._reported:
            number, batch, error = self._reported.popleft()
            batch.finish(number, error)

    def _note(self, error: KafkaError | None) -> None:
        if error is not None and produce_errors.is_of_the_producer(error):
            self._is_broken.set()

    def _on_client_error(self, error: KafkaError) -> None:
        """An error of the client itself, for example while Kafka is unavailable: at most one log line in LOG_SECONDS."""
        self._note(error)
        if time.monotonic() - self._logged_at > LOG_SECONDS:
            self._logged_at = time.monotonic()
            log.warning("Kafka's client has a problem", error=error.str())

    def _open(self) -> Producer:
        self.opened += 1
        return Producer({**self._settings, "error_cb": self._on_client_error})

    def _poll(self) -> None:
        while not self._stopping.is_set():
            self._serve(self._producer.poll, 0.1)
            if self._is_broken.is_set():
                self._replace()

    def _serve(self, callbacks: Callable[[float], object], seconds: float) -> None:
        """Lets librdkafka run its callbacks for up to `seconds`; a fatal error that it raises is noted."""
        try:
            callbacks(seconds)
        except KafkaException as error:
            self._note(error.args[0])
        if self._reported:
            self._loop.call_soon_threadsafe(self._pass_on)

    def _replace(self) -> None:
        """Opens a new producer. Records that still wait in the old one fail, so their callers get NotAcknowledged."""
        old, self._producer = self._producer, self._open()
        old.purge()
        self._serve(old.flush, ACKNOWLEDGE_SECONDS)
        self._is_broken.clear()  # if the new producer is broken too, its next record sets this again
        log.error("producer replaced after a fatal error", opened=self.opened)


def too_large(record: OutgoingRecord) -> RefusedRecord | None:
    """The record as refused if it is above the declared limit of its topic."""
    size, limit = len(record.key) + len(record.value), record_bytes(record.topic)
    if size <= limit:
        return None
    detail = f"{size} bytes of key and value: topic {record.topic} takes at most {limit}"
    return RefusedRecord(record, produce_errors.TOO_LARGE, detail)
