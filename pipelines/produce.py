"""Producing from an event loop and waiting for Kafka's acknowledgement: what the gateway needs before it may answer 200."""

import asyncio
import threading
from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

ACKNOWLEDGE_SECONDS = 8.0  # below the 10 s or so after which providers give a webhook up


class NotAcknowledged(Exception):
    """Kafka has not acknowledged a record in time; it may or may not be there."""


class Producing:
    """An idempotent producer (acks from all replicas) whose acknowledgements can be awaited."""

    def __init__(self, kafka_url: str, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._producer = Producer(
            {
                "bootstrap.servers": kafka_url,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 2,
                "delivery.timeout.ms": int(ACKNOWLEDGE_SECONDS * 1000),
                "log_level": 3,
            }
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="acknowledgements", daemon=True)
        self._thread.start()

    async def all(self, records: Sequence[tuple[str, bytes, bytes]]) -> None:
        """Produces (topic, key, value) records in order; returns when all are acknowledged, else raises NotAcknowledged."""
        waiting = [self._send(topic, key, value) for topic, key, value in records]
        results = await asyncio.gather(*waiting, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise NotAcknowledged(str(result)) from result

    async def close(self) -> None:
        await asyncio.to_thread(self._producer.flush, ACKNOWLEDGE_SECONDS)
        self._stopping.set()
        await asyncio.to_thread(self._thread.join, 2.0)

    def _send(self, topic: str, key: bytes, value: bytes) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()

        def acknowledged(error: KafkaError | None, _: Message) -> None:
            self._loop.call_soon_threadsafe(_settle, future, error)

        try:
            self._producer.produce(topic, value, key, on_delivery=acknowledged)
        except (BufferError, KafkaException) as error:
            future.set_exception(NotAcknowledged(str(error)))
        return future

    def _poll(self) -> None:
        while not self._stopping.is_set():
            self._producer.poll(0.1)


def _settle(future: asyncio.Future[None], error: KafkaError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(NotAcknowledged(error.str()))
