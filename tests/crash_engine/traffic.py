"""Continuous input of a crash run: two sources, plain values, calls and timers, and every twentieth record a second time.

Enters: a seed and a rate. Leaves: records in the source topics, and which values Kafka acknowledged. The values of one key in one source
are numbered in the order in which they were produced, so that the outputs can be compared with it.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Sequence

from confluent_kafka import KafkaError, Message, Producer

from schemas.kafka_access import KafkaAccess

KEYS = 400
DUPLICATES = 0.05
_KINDS = ("", "", "", "", "", "", "", "", "call:", "later:")
_REACH = 5000  # a duplicate comes at most so many records after its first
_TICK_SECONDS = 0.02


class Traffic:
    """Produces from a thread of its own until it is stopped. While the broker is unavailable it waits; it loses nothing."""

    def __init__(self, kafka_url: str, sources: Sequence[str], *, seed: int, rate: int) -> None:
        self.acknowledged: set[bytes] = set()
        self.records = 0
        self.failures: list[str] = []
        self._sources = sources
        self._random = random.Random(seed)  # noqa: S311  # a seed makes the input repeatable
        self._per_tick = max(1, round(rate * _TICK_SECONDS))
        self._recent: deque[tuple[str, bytes, bytes]] = deque(maxlen=_REACH)
        self._numbers = dict.fromkeys(sources, 0)
        self._producer = Producer(
            {
                **KafkaAccess(kafka_url).settings("test"),
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
            }
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stops and waits until Kafka has acknowledged everything."""
        self._stopping.set()
        self._thread.join(30.0)
        left = self._producer.flush(120.0)
        if left:
            self.failures.append(f"{left} records were never acknowledged")

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            for _ in range(self._per_tick):
                self._produce(*self._next())
            self._producer.poll(0)
            due += _TICK_SECONDS
            self._stopping.wait(max(0.0, due - time.monotonic()))

    def _next(self) -> tuple[str, bytes, bytes]:
        """(source, key, value) of the next record: a new one, or one of the last ones again."""
        if self._recent and self._random.random() < DUPLICATES:
            return self._random.choice(self._recent)
        source = self._random.choice(self._sources)
        self._numbers[source] += 1
        kind = self._random.choice(_KINDS)
        value = b"%s%d-%09d" % (kind.encode(), self._sources.index(source), self._numbers[source])
        made = (source, b"k%03d" % self._random.randrange(KEYS), value)
        self._recent.append(made)
        return made

    def _produce(self, source: str, key: bytes, value: bytes) -> None:
        while not self._stopping.is_set():
            try:
                self._producer.produce(source, value, key, on_delivery=self._delivered)
            except BufferError:
                self._producer.poll(0.1)  # the broker is unavailable and the queue is full
            else:
                self.records += 1
                return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.failures.append(f"not acknowledged: {error.str()}")
        else:
            self.acknowledged.add(message.value() or b"")
