"""A small compacted topic, kept whole in memory and up to date: contacts.

What enters: the topic, from its first offset. What leaves: the latest value of a key. A mirror is complete up to the topic's
end before `start` returns, and follows it after that; what it shows was committed (read_committed).
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pipelines.engine import clients
from pipelines.engine.clients import PASSING

V = TypeVar("V")
log = structlog.get_logger(__name__)


class Mirror(Generic[V]):
    """Latest decoded value by key. `decode` gets key and value and may raise ValueError, for a record that does not belong under its key
    too: the record is counted and the former value stays."""

    def __init__(self, *, kafka_url: str, topic: str, decode: Callable[[bytes, bytes], V]) -> None:
        self._kafka_url = kafka_url
        self._topic = topic
        self._decode = decode
        self._values: dict[bytes, V] = {}
        self._complete = threading.Event()
        self._stopping = threading.Event()
        self._failure: str | None = None
        # a consumer of its own to ask with: one that reads lets nobody else in while it waits
        self._asking: Consumer | None = None
        self._positions: dict[int, int] = {}
        self._current_at = 0  # Unix ms: everything acknowledged before then is in here
        self._thread = threading.Thread(target=self._run, name=f"mirror-{topic}", daemon=True)
        self.undecodable = 0

    def get(self, key: bytes) -> V | None:
        return self._values.get(key)

    def await_end(self, since: int, seconds: float = 0.5) -> None:
        """Blocks until everything acknowledged before `since` (Unix ms) is in here, or `seconds` have passed.

        For the rare key that is missing: a contact produced a moment before a message must be found by it.
        """
        consumer = self._asking
        if since <= self._current_at or consumer is None:
            return
        end = time.monotonic() + seconds
        self._current_at = int(time.time() * 1000)  # whatever comes of it: asked once, not once for each missing key
        try:
            ends = {
                partition: consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=seconds)[1]
                for partition in list(self._positions)
            }
        except KafkaException as error:
            log.warning("end of the topic not known", topic=self._topic, error=error.args[0].str())
            return
        while any(self._positions[partition] < last for partition, last in ends.items()):
            if time.monotonic() > end:
                log.warning("mirror is behind", topic=self._topic, seconds=seconds)
                return
            time.sleep(0.002)

    def __len__(self) -> int:
        return len(self._values)

    def start(self, seconds: float = 60.0) -> None:
        """Blocks until the mirror is complete; raises TimeoutError when that takes longer than `seconds`."""
        self._thread.start()
        if not self._complete.wait(seconds) or self._failure:
            raise TimeoutError(
                f"topic {self._topic} could not be read to its end: {self._failure or f'{seconds:.0f} s passed'}"
            )

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10.0)

    def _run(self) -> None:
        settings = clients.settings(self._kafka_url, log_level=0, group_id=f"chat4all-mirror-{self._topic}")
        reading = {"enable.auto.commit": False, "enable.partition.eof": True, "fetch.wait.max.ms": 100}
        consumer, self._asking = Consumer({**settings, **reading}), Consumer(settings)
        try:
            self._follow(consumer)
        except Exception as error:  # noqa: BLE001  # said by start(), or by the log when it happens later
            self._failure = f"{type(error).__name__}: {error}"
            log.error("mirror stopped", topic=self._topic, error=self._failure)
            self._complete.set()
        finally:
            consumer.close()
            self._asking.close()

    def _follow(self, consumer: Consumer) -> None:
        partitions = consumer.list_topics(self._topic, timeout=30).topics[self._topic].partitions
        left = set(partitions)
        self._positions = dict.fromkeys(partitions, 0)
        consumer.assign([TopicPartition(self._topic, partition, 0) for partition in partitions])
        while not self._stopping.is_set():
            started = time.monotonic()
            for message in consumer.consume(10_000, 0.05):
                error = message.error()
                if error is None:
                    self._take(message.key(), message.value())
                    self._positions[message.partition() or 0] = (message.offset() or 0) + 1
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # librdkafka's own code has no public name
                    left.discard(message.partition() or 0)
                    self._positions[message.partition() or 0] = message.offset() or 0
                    if not left:
                        self._complete.set()
                elif not (error.retriable() or error.code() in PASSING):
                    raise KafkaException(error)
            if time.monotonic() - started < 0.01:
                self._stopping.wait(0.01)

    def _take(self, key: bytes | None, value: bytes | None) -> None:
        if key is None:
            self.undecodable += 1
        elif value is None:
            self._values.pop(key, None)
        else:
            try:
                self._values[key] = self._decode(key, value)
            except ValueError as error:
                self.undecodable += 1
                log.warning("record not taken", topic=self._topic, key=repr(key[:64]), error=str(error))
