"""Watches the progress of a worker's partitions: measures the lag by source topic, and ends a worker that has lag and makes no progress.

Enters: where the sources end for a reader of committed records, asked of Kafka every few seconds, and what was fetched and committed.
Leaves: the lag metric, the stuck partitions for /health, a note to partitions that have nothing to do, and the end of the process, with one
line, when a partition has something to do and commits nothing for `stuck_seconds`. A partition that waits on purpose does not end the
worker: one that waits for a database counts as stuck in /health, one whose stage takes nothing now does not. Time in which Kafka is
unavailable does not count. A thread checks that the event loop runs.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from confluent_kafka import KafkaException

from pipelines.engine.topic_identity import TopicIdentity
from pipelines.engine.turns import Partition
from schemas import metrics

log = structlog.get_logger(__name__)
LOOK_SECONDS = 5.0
BEAT_SECONDS = 1.0
TopicPart = tuple[str, int]


class Watchdog:
    """The watchdog of one worker; for its event loop, which it does not block: Kafka is asked in threads.

    `partitions` returns the partitions that take turns now, so that a rebalance needs no notice. `lag_of(source, stable_end)` returns how
    many records up to the stable end are not committed, `end_of(source)` where a source ends if all of it was read and committed, else
    None. `fail(reason)` ends the worker. `lag` is source -> records, of the latest look.
    """

    def __init__(
        self,
        *,
        stage: str,
        stuck_seconds: float,
        partitions: Callable[[], Mapping[int, Partition[Any]]],
        topics: list[str],
        topic_identity: TopicIdentity,
        lag_of: Callable[[TopicPart, int], int],
        end_of: Callable[[TopicPart], int | None],
        fail: Callable[[str], None],
    ) -> None:
        self.lag: dict[TopicPart, int] = {}
        self._stage = stage
        self._stuck_seconds = stuck_seconds
        self._partitions = partitions
        self._topics = topics
        self._topic_identity = topic_identity
        self._lag_of = lag_of
        self._end_of = end_of
        self._fail = fail
        self._idle_since: dict[int, float] = {}
        self._stopped = threading.Event()

    async def run(self) -> None:
        """Looks every LOOK_SECONDS until it is cancelled. Starts the thread that checks the event loop."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._watch_event_loop, args=(loop,), name="event-loop-watch", daemon=True).start()
        try:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                await self._look()
        finally:
            self._stopped.set()

    async def _look(self) -> None:
        running = dict(self._partitions())
        sources = [(topic, number) for topic in self._topics for number in running]
        try:
            lost = await asyncio.to_thread(self._topic_identity.lost)
            if lost is not None:
                self._fail(lost)
            ends = await asyncio.to_thread(self._topic_identity.stable_ends, sources)
        except KafkaException as error:
            log.warning("lag not known", stage=self._stage, error=error.args[0].str())
            self._idle_since.update(dict.fromkeys(running, time.monotonic()))  # no partition can make progress now
            return
        self.lag = {source: self._lag_of(source, end) for source, end in ends.items()}
        self._publish_lag()
        self._note_progress(running)
        for number in self.stuck(running):
            if not running[number].waiting_for_sink:
                self._fail(f"partition {number} has lag and committed nothing for {self._stuck_seconds:.0f} s")

    def stuck(self, running: Mapping[int, Partition[Any]]) -> list[int]:
        """The partitions that have had something to do for `stuck_seconds` and committed nothing in that time."""
        now = time.monotonic()
        for number, partition in running.items():
            if partition.held or not any(lag for (_, of), lag in self.lag.items() if of == number):
                self._idle_since[number] = now
        return [
            number
            for number, partition in running.items()
            if now - max(partition.progressed_at, self._idle_since.get(number, 0.0)) > self._stuck_seconds
        ]

    def _note_progress(self, running: Mapping[int, Partition[Any]]) -> None:
        for number, partition in running.items():
            ends = {(topic, number): self._end_of((topic, number)) for topic in self._topics}
            known = {source: end for source, end in ends.items() if end is not None}
            if len(known) == len(ends):
                partition.note_idle(known)

    def _publish_lag(self) -> None:
        # 0 without a partition: else the last figure would stay when another worker has the partitions
        by_topic = dict.fromkeys(self._topics, 0)
        for (topic, _), lag in self.lag.items():
            by_topic[topic] += lag
        for topic, lag in by_topic.items():
            metrics.LAG.labels(self._stage, topic).set(lag)

    def _watch_event_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: ends a worker whose event loop is blocked, for example by a decision that does not end. Counts missed answers, not
        time, so that a process that was frozen does not end."""
        answered = threading.Event()
        missed = 0
        while not self._stopped.is_set():
            answered.clear()
            try:
                loop.call_soon_threadsafe(answered.set)
            except RuntimeError:
                return  # the event loop has closed
            if answered.wait(BEAT_SECONDS):
                missed = 0
                self._stopped.wait(BEAT_SECONDS)
            else:
                missed += 1
            if missed * BEAT_SECONDS > self._stuck_seconds:
                self._fail(
                    f"the event loop has not turned for {self._stuck_seconds:.0f} s: a decision that does not end"
                )
