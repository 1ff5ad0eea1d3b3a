"""Whether the partitions of a worker make progress: lag by source topic, and the end of a worker that has lag and does not move.

Enters: committed offsets and topic ends, asked of Kafka every few seconds. Leaves: the lag metric, the word for /health, and, after
a set time without a commit while there is something to do, one line and the end of the process. A partition that waits for a
database on purpose is said to be stuck, but does not end: starting again would not bring the database back.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition

from pipelines.engine.footing import Footing
from pipelines.engine.turns import Partition
from schemas import metrics

log = structlog.get_logger(__name__)
LOOK_SECONDS = 5.0
TopicPart = tuple[str, int]


class Watchdog:
    """Looks at the running partitions of one worker. `consumer` names the group and never subscribes."""

    def __init__(
        self,
        *,
        stage: str,
        consumer: Consumer,
        stuck_seconds: float,
        partitions: Callable[[], Mapping[int, Partition[Any]]],
        topics: list[str],
        footing: Footing,
        fail: Callable[[str], None],
    ) -> None:
        self.lag: dict[TopicPart, int] = {}
        self._stage = stage
        self._consumer = consumer
        self._stuck_seconds = stuck_seconds
        self._partitions = partitions
        self._topics = topics
        self._footing = footing
        self._fail = fail
        self._idle_since: dict[int, float] = {}

    async def run(self) -> None:
        """Looks until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            running = dict(self._partitions())
            sources = [(topic, number) for topic in self._topics for number in running]
            try:
                lost = await asyncio.to_thread(self._footing.lost)
                if lost is not None:
                    self._fail(lost)
                self.lag = await asyncio.to_thread(self._measured, sources)
            except KafkaException as error:
                log.warning("lag could not be asked", stage=self._stage, error=error.args[0].str())
                continue
            self._tell()
            for number in self.stuck(running):
                if not running[number].waiting_for_sink:
                    self._fail(f"partition {number} has lag and committed nothing for {self._stuck_seconds:.0f} s")

    def stuck(self, running: Mapping[int, Partition[Any]]) -> list[int]:
        """Partitions that had something to do for the whole time and committed nothing in it."""
        now = time.monotonic()
        for number in running:
            if not any(lag for (_, of), lag in self.lag.items() if of == number):
                self._idle_since[number] = now
        return [
            number
            for number, partition in running.items()
            if now - max(partition.progressed_at, self._idle_since.get(number, 0.0)) > self._stuck_seconds
        ]

    def _measured(self, sources: list[TopicPart]) -> dict[TopicPart, int]:
        found = self._consumer.committed([TopicPartition(*source) for source in sources], timeout=30) if sources else []
        lag = {}
        for position in found:
            low, high = self._consumer.get_watermark_offsets(
                TopicPartition(position.topic, position.partition), timeout=30
            )
            lag[position.topic, position.partition] = max(0, high - max(position.offset, low))
        return lag

    def _tell(self) -> None:
        by_topic: dict[str, int] = {}
        for (topic, _), lag in self.lag.items():
            by_topic[topic] = by_topic.get(topic, 0) + lag
        for topic, lag in by_topic.items():
            metrics.LAG.labels(self._stage, topic).set(lag)
