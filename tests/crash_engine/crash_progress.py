"""How long a partition makes no progress: committed offsets, read ten times a second, and the gaps between their moves.

Enters: the group's offsets in Kafka. Leaves: gaps with their partition, start and end in monotonic seconds, and when Kafka itself did not
answer. The input never pauses, so that a partition without progress has work and does not do it.
"""

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from pipelines.engine.kafka_names import app_id
from schemas.kafka_access import KafkaAccess

_LOOK_SECONDS = 0.1
_SHORTEST = 0.5  # a shorter gap is normal between turns and looks


class Gap(NamedTuple):
    partition: int
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


class Progress:
    """Looks from a thread of its own. A look that the broker does not answer counts as no progress."""

    def __init__(self, kafka_url: str, stage: str, sources: Sequence[str], partitions: int) -> None:
        self._consumer = Consumer(
            {
                **KafkaAccess(kafka_url).settings("test"),
                "group.id": app_id(stage),
                "isolation.level": "read_uncommitted",  # else a look waits for open transactions
            }
        )
        self._wanted = [TopicPartition(source, number) for source in sources for number in range(partitions)]
        self._positions: dict[int, int] = {}
        self._moved: dict[int, float] = {}
        self._gaps: list[Gap] = []
        self._answered = time.monotonic()
        self._silences: list[Gap] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10.0)
        self._consumer.close()

    def gaps(self) -> list[Gap]:
        """Every gap so far, including those that are still open."""
        now = time.monotonic()
        with self._lock:
            still = [Gap(number, moved, now) for number, moved in self._moved.items() if now - moved > _SHORTEST]
            return self._gaps + still

    def silences(self) -> list[Gap]:
        """When Kafka did not answer; the partition of such a gap has no meaning."""
        with self._lock:
            return list(self._silences)

    def moved_since(self, moment: float) -> bool:
        """Whether every partition has made progress after the moment."""
        with self._lock:
            return len(self._moved) > 0 and all(moved > moment for moved in self._moved.values())

    def positions(self) -> dict[int, int]:
        """Committed offsets by partition number, summed over the sources."""
        with self._lock:
            return dict(self._positions)

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            try:
                found = self._consumer.committed(self._wanted, timeout=1.0)
            except KafkaException:
                continue
            self._take(found)

    def _take(self, found: Sequence[TopicPartition]) -> None:
        now = time.monotonic()
        positions: dict[int, int] = {}
        for each in found:
            if each.error is not None:
                return
            positions[each.partition] = positions.get(each.partition, 0) + max(0, each.offset)
        with self._lock:
            if now - self._answered > _SHORTEST:
                self._silences.append(Gap(-1, self._answered, now))
            self._answered = now
            for number, position in positions.items():
                before, moved = self._positions.get(number, 0), self._moved.get(number, now)
                if position > before:
                    if now - moved > _SHORTEST:
                        self._gaps.append(Gap(number, moved, now))
                    self._positions[number] = position
                    self._moved[number] = now
