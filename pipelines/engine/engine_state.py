"""The parts of one worker's engine, and how far its partitions have read. What the engine does with them is in worker.py.

Enters: a stage and the settings of its worker. Leaves: the parts, connected; nothing is opened, and Kafka is not asked yet.
"""

import asyncio
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import structlog

from pipelines.engine.batch_queue import GroupConsumer
from pipelines.engine.calls import Budget
from pipelines.engine.changelog_ends import ChangelogEnds
from pipelines.engine.connection_state import ConnectionState
from pipelines.engine.crash_loop import EndReason, OneAtATime
from pipelines.engine.fetch import Fetch
from pipelines.engine.group_offsets import GroupOffsets
from pipelines.engine.kafka_names import changelog_topic
from pipelines.engine.kafka_sizes import KafkaSizes
from pipelines.engine.last_change import ChangelogSearch
from pipelines.engine.local_members import LocalMembers
from pipelines.engine.membership import Member
from pipelines.engine.mirrors import Mirrors
from pipelines.engine.partition_tables import PartitionTables
from pipelines.engine.poison import LIMIT
from pipelines.engine.restore import RestoreProgress
from pipelines.engine.shared_changelog import prefix_of
from pipelines.engine.stage import Stage
from pipelines.engine.takeover import Takeover
from pipelines.engine.topic_identity import TopicIdentity
from pipelines.engine.transactional_id import TransactionalId
from pipelines.engine.turns import Partition
from pipelines.engine.watchdog import Watchdog
from pipelines.engine.writer import REST_SECONDS
from schemas.kafka_access import KafkaAccess
from tables.stores.factory import Kind

log = structlog.get_logger(__name__)
KAFKAS_RECORD_BYTES = 1_048_588 - 1024  # Kafka's default for a topic, less what a batch needs for itself
EXIT_CODE = 3  # of a worker that ended itself because its memory could no longer be trusted


def _system_now() -> int:
    return int(time.time() * 1000)


class EngineState:
    """The state of an Engine. All methods run in the event loop of the worker's Faust app, and none blocks.

    `consumer` is set by the transport before the worker joins its group. `member` is the membership as of the latest assignment;
    the thread of the group's client sets it. `restoring` shows the progress of a restore while one runs.
    """

    consumer: GroupConsumer
    restoring: RestoreProgress | None = None
    joined = False  # whether the group has given this worker an assignment yet
    epoch = 0  # counts the starts of the partitions: a batch of an older start is never decided on
    _fetch: Fetch | None = None
    _reopening: asyncio.Task[None] | None = None
    _given_up = -1  # the last generation whose partitions this worker has given up

    def __init__(
        self,
        *,
        stage: Stage[Any],
        app_id: str,
        kafka: KafkaAccess,
        session_seconds: float,
        stuck_seconds: float,
        poison_limit: int = LIMIT,
        record_bytes: Callable[[str], int] = lambda _: KAFKAS_RECORD_BYTES,
        store: Kind = "memory",
        folder: Path = Path(),
        rest_seconds: float = REST_SECONDS,
        now: Callable[[], int] = _system_now,
    ) -> None:
        self.stage = stage
        self.stuck_seconds = stuck_seconds
        self.partitions: dict[int, Partition[Any]] = {}
        self.member = Member(app_id, "", -1)
        self._app_id = app_id
        self._kafka = kafka
        self._now = now
        self.local_members = LocalMembers(folder / ".members")
        self.identity = TransactionalId(folder / ".names", app_id)
        self._session_seconds = session_seconds
        self._poison_limit = poison_limit
        self._drain_seconds = session_seconds / 2
        self.connection = ConnectionState()
        self._one_at_a_time = OneAtATime()
        self._budget = Budget(stage.name, stage.most_calls)
        self._sizes = KafkaSizes(record_bytes)
        self._end_reason = EndReason(folder)
        self._group = GroupOffsets(kafka, app_id)
        self._running: set[int] = set()
        self._topics = {source.topic for source in stage.sources}
        self._topic_identity = TopicIdentity(
            stage=stage.name,
            kafka=kafka,
            group=app_id,
            sources=stage.sources,
            changelogs={layout.name: self.changelog(layout.name) for layout in stage.tables},
        )
        self.changelog_ends = ChangelogEnds(self._topic_identity.ends)
        self._mirrors = Mirrors(stage.mirrored, kafka=kafka, ends=self._topic_identity.ends, fail=self.fail)
        self._partition_tables = PartitionTables(
            kind=store,
            folder=folder,
            layouts=stage.tables,
            changelog=self.changelog,
            shared=stage.one_changelog,
            topic_identity=self._topic_identity,
            consumer=self._group.consumer,
        )
        self._takeover = self._new_takeover()
        self._writer = self._takeover.writer(rest_seconds)
        self.watchdog = self._new_watchdog()
        self._tasks: list[asyncio.Task[None]] = []  # those that run as long as the worker does
        self._fenced: set[int] = set()
        self._taking_over = asyncio.Lock()
        self._id = uuid.uuid4().hex

    def _new_takeover(self) -> Takeover:
        return Takeover(
            kafka=self._kafka,
            group=self._group,
            topic_identity=self._topic_identity,
            sources=self.stage.sources,
            connection=self.connection,
            own=lambda: self.identity.id,
            members=lambda: self.consumer.members(),  # noqa: PLW0108  # no consumer yet
        )

    def _new_watchdog(self) -> Watchdog:
        return Watchdog(
            stage=self.stage.name,
            stuck_seconds=self.stuck_seconds,
            partitions=self.running,
            topics=sorted(self._topics),
            topic_identity=self._topic_identity,
            lag_of=self._lag_of,
            end_of=self._end_of,
            fail=self.fail,
        )

    def running(self) -> dict[int, Partition[Any]]:
        """The partitions that take turns now."""
        return {number: self.partitions[number] for number in self._running}

    def fail(self, reason: str) -> None:
        """Ends the process at once with EXIT_CODE: its memory may be ahead of Kafka, and only a restart is known to be right. `reason` is
        one line without texts of messages; it is logged and kept for the next worker. Does not return."""
        log.error("worker ends", stage=self.stage.name, reason=reason)
        self._end_reason.write(reason)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_CODE)

    def changelog(self, table: str) -> str:
        """The changelog topic of a table."""
        return changelog_topic(self._app_id, None if self.stage.one_changelog else table)

    @cached_property
    def changelog_search(self) -> ChangelogSearch:
        """Finds the places of changes in the changelogs, for the views."""
        return ChangelogSearch(self._kafka)

    def changelog_key(self, table: str, key: bytes) -> bytes:
        """The key of a table's row in its changelog."""
        return prefix_of(table) + key if self.stage.one_changelog else key

    def _caught_up(self, number: int) -> bool:
        fetch = self._fetch
        return fetch is not None and all(
            fetch.caught_up((s.topic, number)) and not self.consumer.in_flight[s.topic, number]
            for s in self.stage.sources
            if s.first
        )

    def _end_of(self, source: tuple[str, int]) -> int | None:
        fetch = self._fetch
        return None if fetch is None or self.consumer.in_flight[source] else fetch.end(source)

    def _is_read_to(self, source: tuple[str, int], end: int, batches: int) -> bool:
        fetch = self._fetch
        return fetch is not None and fetch.is_read_to(source, end) and self.consumer.in_flight[source] == batches

    def _lag_of(self, source: tuple[str, int], stable_end: int) -> int:
        """Records up to the stable end that no committed turn has taken. In the part that was not fetched yet, markers count as well."""
        fetch, partition = self._fetch, self.partitions.get(source[1])
        if fetch is None or partition is None:
            return 0
        return fetch.unread(source, stable_end) + max(0, fetch.fetched(source) - partition.done[source])

    def _sources(self, numbers: Iterable[int]) -> list[tuple[str, int]]:
        return [(topic, number) for topic in sorted(self._topics) for number in sorted(numbers)]
