"""Producing from an event loop and waiting for Kafka's acknowledgement: what the gateway needs before it may answer 200.

In: records. Out: which of them can never be kept (produce_errors.py); all others are acknowledged by all replicas, else
NotAcknowledged is raised. A producer that can send nothing any more is replaced by a new one.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pipelines import produce_errors
from pipelines.engine import client_settings
from schemas.catalog import TOPICS, record_bytes
from schemas.kafka_access import KafkaAccess

SAY_SECONDS = 10.0
ACKNOWLEDGE_SECONDS = 8.0  # below the 10 s or so after which providers give a webhook up
LARGEST_RECORD = max(topic.max_bytes for topic in TOPICS.values())
log = structlog.get_logger(__name__)


class OutgoingRecord(NamedTuple):
    """A record to produce; to a partition by number, or by the key's hash when `partition` is None."""

    topic: str
    key: bytes
    value: bytes
    partition: int | None = None


class NotAcknowledged(Exception):
    """Kafka has not acknowledged a record in time; it may or may not be there."""


class RefusedRecord(NamedTuple):
    """A record that can never be kept: a cause of schemas/causes.py, and why in a sentence."""

    record: OutgoingRecord
    cause: str
    detail: str


class AcknowledgedProducer:
    """An idempotent producer (acks from all replicas) whose acknowledgements can be awaited. It gathers what comes within `linger_ms`:
    a request to Kafka costs both sides about the same whatever is in it. `more` are further settings of Kafka's
    producer, with `_` for `.`."""

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
        self.opened = 0  # producers so far
        self._said_at = -SAY_SECONDS
        self._producer = self._open()
        self._is_broken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="acknowledgements", daemon=True)
        self._thread.start()

    async def all(self, records: Sequence[OutgoingRecord]) -> list[RefusedRecord]:
        """Produces the records in order. Returns those that can never be kept, once all others are acknowledged; else raises
        NotAcknowledged, and any of them may be there or not."""
        too_large = [_too_large(record) for record in records]
        fitting = [record for record, found in zip(records, too_large, strict=True) if found is None]
        return [found for found in too_large if found is not None] + await self._keep(fitting)

    async def close(self) -> None:
        """Waits for what was produced, and lets go of Kafka's client, whoever still knows this object."""
        await asyncio.to_thread(self._serve, self._producer.flush, ACKNOWLEDGE_SECONDS)
        self._stopping.set()
        await asyncio.to_thread(self._thread.join)
        del self._producer

    async def _keep(self, records: Sequence[OutgoingRecord]) -> list[RefusedRecord]:
        """As `all`. The broker refuses a batch whole, so what one record may have cost the others is tried again in halves."""
        errors = await asyncio.gather(*[self._send(record) for record in records])
        unkept, again = [], []
        for record, error in zip(records, errors, strict=True):
            if error is None:
                continue
            if len(records) > 1 and produce_errors.is_of_the_batch(error):
                again.append(record)
            elif (cause := produce_errors.cause(error)) is None:
                raise NotAcknowledged(error.str())
            else:
                unkept.append(RefusedRecord(record, cause, f"topic {record.topic} does not take it: {error.str()}"))
        middle = (len(again) + 1) // 2
        for half in filter(None, (again[:middle], again[middle:])):
            unkept += await self._keep(half)
        return unkept

    def _send(self, record: OutgoingRecord) -> "asyncio.Future[KafkaError | None]":
        future: asyncio.Future[KafkaError | None] = self._loop.create_future()

        def acknowledged(error: KafkaError | None, _: Message) -> None:
            self._note(error)
            self._loop.call_soon_threadsafe(_resolve, future, error)

        try:
            partition = -1 if record.partition is None else record.partition
            self._producer.produce(record.topic, record.value, record.key, partition, on_delivery=acknowledged)
        except BufferError:
            future.set_result(KafkaError(KafkaError._QUEUE_FULL))  # noqa: SLF001  # the names of librdkafka's own errors begin so
        except KafkaException as error:
            self._note(error.args[0])
            future.set_result(error.args[0])
        return future

    def _note(self, error: KafkaError | None) -> None:
        if error is not None and produce_errors.is_of_the_producer(error):
            self._is_broken.set()

    def _hear(self, error: KafkaError) -> None:
        """What happens to the client beside its records: while Kafka is away or lets us in no more, a line now and then."""
        self._note(error)
        if time.monotonic() - self._said_at > SAY_SECONDS:
            self._said_at = time.monotonic()
            log.warning("Kafka's client has a problem", error=error.str())

    def _open(self) -> Producer:
        self.opened += 1
        return Producer({**self._settings, "error_cb": self._hear})

    def _poll(self) -> None:
        while not self._stopping.is_set():
            self._serve(self._producer.poll, 0.1)
            if self._is_broken.is_set():
                self._open_anew()

    def _serve(self, callbacks: Callable[[float], object], seconds: float) -> None:
        """Lets librdkafka call back; it may raise a fatal error from there."""
        try:
            callbacks(seconds)
        except KafkaException as error:
            self._note(error.args[0])

    def _open_anew(self) -> None:
        """Whoever waits for the old one hears that it was not acknowledged."""
        old, self._producer = self._producer, self._open()
        old.purge()
        self._serve(old.flush, ACKNOWLEDGE_SECONDS)
        self._is_broken.clear()  # should the new one be broken as well, its next record tells
        log.error("producer opened anew after a fatal error", opened=self.opened)


def _too_large(record: OutgoingRecord) -> RefusedRecord | None:
    size, limit = len(record.key) + len(record.value), record_bytes(record.topic)
    if size <= limit:
        return None
    detail = f"{size} bytes of key and value for {record.topic}, which takes {limit}"
    return RefusedRecord(record, produce_errors.TOO_LARGE, detail)


def _resolve(future: "asyncio.Future[KafkaError | None]", error: KafkaError | None) -> None:
    if not future.done():
        future.set_result(error)
