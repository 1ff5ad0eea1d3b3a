"""The engine of one worker: the partitions it owns, from assignment to revocation.

assigned -> offsets and changelogs stable -> restore -> seek -> turns -> revoked -> last turn, calls drained. One producer serves all
partitions; what it commits is fenced by the group's generation. A partition that stays with this worker keeps its tables, if the group
still holds what this worker committed last: whoever had owned it in between would have left a mark of its own.
"""

import asyncio
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog

from pipelines.engine.batch_queue import Batch, BatchEvent, GroupConsumer
from pipelines.engine.calls import Budget
from pipelines.engine.connection_state import ConnectionState
from pipelines.engine.crash_loop import EndReason, OneAtATime
from pipelines.engine.fetch import Fetch
from pipelines.engine.garbage_collection import collect_garbage, favour_long_decisions
from pipelines.engine.group_offsets import GroupOffsets
from pipelines.engine.kafka_names import changelog_topic
from pipelines.engine.kafka_sizes import KafkaSizes
from pipelines.engine.local_members import LocalMembers
from pipelines.engine.membership import Member
from pipelines.engine.mirrors import Mirrors
from pipelines.engine.partition_tables import PartitionTables
from pipelines.engine.poison import LIMIT, raised_where
from pipelines.engine.restore import RestoreProgress, restore
from pipelines.engine.stage import Record, Stage
from pipelines.engine.start_offsets import check_committed
from pipelines.engine.start_offsets import deleted as deleted_before
from pipelines.engine.takeover import Takeover, while_kafka_starts
from pipelines.engine.topic_identity import TopicIdentity, UnusableTopics
from pipelines.engine.transactional_id import TransactionalId
from pipelines.engine.transactions import Fenced, HeldOffset, IdTaken
from pipelines.engine.turns import Partition
from pipelines.engine.watchdog import Watchdog
from pipelines.engine.writer import REST_SECONDS
from schemas import metrics
from schemas.kafka_access import KafkaAccess
from tables.stores.factory import Kind
from tables.table import Table

log = structlog.get_logger(__name__)
STOP_SECONDS = 45.0  # below the group's rebalance time-out, 60 s; who takes longer holds everybody up until then
KAFKAS_RECORD_BYTES = 1_048_588 - 1024  # a topic's own default, less what a batch needs for itself
EXIT_CODE = 3  # of a worker that ended because it could no longer be right


def _system_now() -> int:
    return int(time.time() * 1000)


class Engine:
    """Owns the partitions of one stage in one worker. Lives in the Faust app's event loop."""

    consumer: GroupConsumer
    restoring: RestoreProgress | None = None
    joined = False  # whether the group has given this worker an assignment yet
    epoch = 0  # counts starts: a batch of an older one is never decided on
    _fetch: Fetch | None = None
    _reopening: asyncio.Task[None] | None = None
    _given_up = -1  # the last generation whose partitions the group took away

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
        self.member = Member(app_id, "", -1)  # as the latest assignment told it
        self._app_id = app_id
        self._kafka = kafka
        self._now = now
        self.local_members = LocalMembers(folder / ".members")
        self.identity = TransactionalId(folder / ".names", app_id)
        self._session_seconds = session_seconds
        self._poison_limit = poison_limit
        self._drain_seconds = session_seconds / 2  # a longer silence would cost the membership
        self.connection = ConnectionState()
        self._one_at_a_time = OneAtATime()
        self._budget = Budget(stage.name, stage.most_calls)
        self._sizes = KafkaSizes(record_bytes)
        self._end_reason = EndReason(folder)
        self._group = GroupOffsets(kafka, app_id)
        self._running: set[int] = set()
        self._topics = {source.topic for source in stage.sources}
        self._topic_identity = TopicIdentity(
            stage=stage.name, kafka=kafka, group=app_id, sources=stage.sources,
            changelogs={layout.name: self.changelog(layout.name) for layout in stage.tables},
        )  # fmt: skip
        self._mirrors = Mirrors(stage.mirrored, kafka=kafka, ends=self._topic_identity.ends, fail=self.fail)
        self._partition_tables = PartitionTables(
            kind=store, folder=folder, layouts=stage.tables, changelog=self.changelog, shared=stage.one_changelog,
            topic_identity=self._topic_identity, consumer=self._group.consumer,
        )  # fmt: skip
        self._takeover = Takeover(
            kafka=kafka, group=self._group, topic_identity=self._topic_identity, sources=stage.sources, connection=self.connection,
            own=lambda: self.identity.id, members=lambda: self.consumer.members(),  # noqa: PLW0108  # there is none yet
        )  # fmt: skip
        self._writer = self._takeover.writer(rest_seconds)
        self.watchdog = Watchdog(
            stage=stage.name, stuck_seconds=stuck_seconds, partitions=self.running, topics=sorted(self._topics),
            topic_identity=self._topic_identity, lag_of=self._lag_of, end_of=self._end_of, fail=self.fail,
        )  # fmt: skip
        self._tasks: list[asyncio.Task[None]] = []  # that run as long as the worker does
        self._fenced: set[int] = set()
        self._taking_over = asyncio.Lock()
        self._id = uuid.uuid4().hex

    def check(self) -> None:
        """Raises UnusableTopics, one line, when the stage's topics are not fit for it. Blocks; to be called before the worker joins."""
        self._topic_identity.check()

    # --- what Faust's recovery asks for ---------------------------------------------------------------------------------

    def source_partitions(self, assignment: Iterable[Any]) -> set[int]:
        """Numbers of the assigned partitions of this stage's sources."""
        return {tp.partition for tp in assignment if tp.topic in self._topics}

    def is_current(self, generation: int) -> bool:
        """Whether what the group said in this generation still holds."""
        return self.consumer.generation == generation != self._given_up

    async def give_up(self) -> None:
        """The group takes partitions away: nobody's leftovers are ended any more, and what is being ended is waited for, since its writer
        may be a member of the next generation. Then every partition is stopped."""
        self._given_up = self.consumer.generation
        await self._takeover.ended()
        await self.stop_partitions()

    async def take_over(self, numbers: set[int], is_current: Callable[[], bool]) -> bool:
        """Restores what is newly ours or was fenced, drops what is not ours any more; false when a newer rebalance made it void."""
        async with self._taking_over:
            return is_current() and await self._take_over(numbers, is_current)

    async def _take_over(self, numbers: set[int], is_current: Callable[[], bool]) -> bool:
        began = time.monotonic()
        self.restoring = progress = RestoreProgress(began=began)
        await self.stop_partitions()
        if not self._tasks:
            if not self._topic_identity.ids:
                await asyncio.to_thread(self.check)
            await self._mirrors.start()
            await self.stage.start()
            self._end_reason.take()
            favour_long_decisions()
            self._tasks.append(asyncio.create_task(collect_garbage(), name="collector"))
            self._tasks.append(asyncio.create_task(self.watchdog.run(), name="watchdog"))
        fenced, self._fenced = self._fenced, set()
        for number in [number for number in self.partitions if number not in numbers or number in fenced]:
            self._drop(number)
        await self._writer.open(self.member)
        held = await self._takeover.offsets(numbers, is_current)
        if held is None:
            return False
        for number in [number for number in self.partitions if not self._writer.is_last(self._sources([number]), held)]:
            log.warning("restored anew: another worker has had it", stage=self.stage.name, partition=number)
            self._drop(number)
        fresh = sorted(numbers - set(self.partitions))
        logs = sorted({(self.changelog(layout.name), number) for layout in self.stage.tables for number in fresh})
        if not await self._takeover.changelogs(logs, fresh, is_current):
            return False
        tables = {number: await asyncio.to_thread(self._partition_tables.open, number) for number in fresh}
        changelogs = self._partition_tables.changelogs(tables)
        rows = await asyncio.to_thread(restore, self._kafka, changelogs, is_current, progress) if changelogs else 0
        if not is_current():
            for table in changelogs.values():
                table.close()
            return False
        for number in fresh:
            self.partitions[number] = self._partition(number, tables[number])
        metrics.RESTORE_SECONDS.labels(self.stage.name).observe(time.monotonic() - began)
        metrics.RESTORED_ROWS.labels(self.stage.name).inc(rows)
        metrics.PARTITIONS.labels(self.stage.name).set(len(self.partitions))
        self.restoring = None
        self.joined = True
        log.info(
            "partitions taken over", stage=self.stage.name, partitions=sorted(numbers), restored=fresh, rows=rows,
            seconds=round(time.monotonic() - began, 2),
        )  # fmt: skip
        return True

    async def start_partitions(self, is_current: Callable[[], bool]) -> None:
        """Seeks to the committed offsets (a sink: to its own) and lets the partitions take turns, if they are ours still."""
        sources = self._sources(self.partitions)
        held = await asyncio.to_thread(self._group.held, sources)
        tables = {number: partition.tables for number, partition in self.partitions.items()}
        check_committed(tables, held, self._app_id, self._topic_identity)
        begin = await asyncio.to_thread(
            self._topic_identity.first, [source for source in sources if source not in held]
        )
        committed = {source: found.offset for source, found in held.items()} | begin
        positions = committed | dict(await self.stage.positions(sources))
        deleted = await deleted_before(self.stage.name, positions, self._topic_identity)
        positions |= {source: end for source, (_, end) in deleted.items()}
        ends = await asyncio.to_thread(self._topic_identity.ends, sources) if self.stage.hands_over else {}
        if not is_current():
            return
        await asyncio.gather(*(self._record_start(number, held, committed) for number in self.partitions))
        if not is_current():  # no end of a worker, and none is counted
            await asyncio.gather(*(partition.stop() for partition in self.partitions.values()))
            return
        if self._fetch is None:
            self._fetch = Fetch(
                kafka=self._kafka, group=self._app_id, pause_above=4 * self.stage.turn_records,
                min_bytes=self.stage.fetch_min_bytes, wait_ms=self.stage.fetch_wait_ms,
                gather_ms=self.stage.fetch_gather_ms,
                on_records=self._on_news, on_failure=self.fail, on_lost=self.connection.lost, on_found=self.connection.found,
            )  # fmt: skip
        self.epoch += 1
        self.consumer.in_flight.clear()
        mark = f"{self._id} {self.epoch}".encode()
        self._fetch.assign(positions)
        for number, partition in self.partitions.items():
            if number in self._fenced:
                continue
            partition.unread.start({s: end for s, end in ends.items() if s[1] == number}, self._is_read_to, mark)
            partition.start(
                committed={source: at for source, at in committed.items() if source[1] == number},
                caught_up=lambda number=number: self._caught_up(number),  # type: ignore[misc]  # mypy cannot type a default in a lambda
                deleted={source: offsets for source, offsets in deleted.items() if source[1] == number},
            )
            self._running.add(number)

    async def stop_partitions(self) -> None:
        """Lets every partition finish its turn and its calls, also one that has left word of its start and not begun; afterwards nothing
        is fetched and nothing is open."""
        if self._fetch is not None:
            self._fetch.assign({})
        self._running = set()
        stopping = asyncio.gather(*(partition.stop() for partition in self.partitions.values()))
        try:
            await asyncio.wait_for(stopping, STOP_SECONDS)
        except TimeoutError:
            self.fail(f"partitions {sorted(self.partitions)} did not end their turns in {STOP_SECONDS:.0f} s")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.stop_partitions()
        if self._fetch is not None:
            await self._fetch.stop()
        await self.stage.stop()
        await self._mirrors.stop()
        for partition in self.partitions.values():
            for table in partition.tables.values():
                table.close()
        self._writer.close()
        self._group.close()
        self.local_members.leave()
        self.identity.release()

    # --- what the transport asks for ------------------------------------------------------------------------------------

    def waiting(self) -> list[tuple[str, int]]:
        return self._fetch.waiting() if self._fetch is not None else []

    def take(self, source: tuple[str, int]) -> list[Record]:
        return self._fetch.take(source, self.stage.turn_records) if self._fetch is not None else []

    def submit(self, message: BatchEvent) -> None:
        """A batch that came through Faust's agent, to its partition; one of an older generation is dropped unread."""
        source = (message.topic, message.partition)

        def release() -> None:
            if message.epoch == self.epoch:
                self.consumer.in_flight[source] -= 1
            self.consumer.news()

        partition = self.partitions.get(message.partition)
        if partition is None or message.partition not in self._running or message.epoch != self.epoch:
            release()
            return
        partition.submit(Batch(message.value, release))

    def fail(self, reason: str) -> None:
        """Ends the worker at once: its memory may be ahead of Kafka, and only a fresh start is known to be right."""
        log.error("worker ends", stage=self.stage.name, reason=reason)
        self._end_reason.write(reason)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_CODE)

    def running(self) -> dict[int, Partition[Any]]:
        """The partitions that take turns now."""
        return {number: self.partitions[number] for number in self._running}

    # --- inside ---------------------------------------------------------------------------------------------------------

    def changelog(self, table: str) -> str:
        return changelog_topic(self._app_id, None if self.stage.one_changelog else table)

    def _on_news(self) -> None:
        self.consumer.news()
        for partition in self.partitions.values():
            partition.wake()

    def _on_fenced(self, number: int) -> None:
        """Nothing in this worker's memory is to be trusted any more; who finds it out first speaks for all."""
        first = not self._fenced
        self._fenced.update(self.partitions, [number])
        if first:
            self._reopening = asyncio.create_task(self._reopen(self.consumer.generation), name="reopen")

    async def _reopen(self, generation: int) -> None:
        """Takes the partitions over again if the group still says that they are ours. After a rebalance the take-over that comes
        with it has done so: whoever was away too long is told to join again, and then restores what it is given."""

        def is_current() -> bool:
            return self.is_current(generation)

        # whoever is no longer a member hears of it within the session time-out; only then is the group's word worth something
        await asyncio.sleep(self._session_seconds)
        if not is_current():
            return
        if isinstance(self._writer.fenced, IdTaken):
            self.identity.renew()  # not by a worker that took us for dead: the group has not let go of us

        async def again() -> None:
            if await self.take_over(set(self.partitions), is_current):
                await self.start_partitions(is_current)

        try:
            await while_kafka_starts(again, is_current=is_current, seconds=self.stuck_seconds)
        except UnusableTopics as error:
            self.fail(str(error))
        except Exception as error:  # noqa: BLE001  # a worker that cannot restore must end, not linger
            self.fail(f"opening partitions again failed: {raised_where(error)}")

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
        """Records up to the stable end that no committed turn has taken; of what was not fetched yet, markers count too."""
        fetch, partition = self._fetch, self.partitions.get(source[1])
        if fetch is None or partition is None:
            return 0
        return fetch.unread(source, stable_end) + max(0, fetch.fetched(source) - partition.done[source])

    async def _record_start(
        self, number: int, held: Mapping[tuple[str, int], HeldOffset], committed: Mapping[tuple[str, int], int]
    ) -> None:
        """The group's offsets say that the partition was started, before it does anything."""
        partition = self.partitions[number]
        own = {source: found for source, found in held.items() if source[1] == number}
        try:
            await partition.take_over(own, {source: at for source, at in committed.items() if source[1] == number})
        except Fenced as error:
            log.warning("fenced", stage=self.stage.name, partition=number, detail=str(error))
            self._on_fenced(number)

    def _drop(self, number: int) -> None:
        partition = self.partitions.pop(number)
        partition.abandon()
        for table in partition.tables.values():
            table.close()

    def _sources(self, numbers: Iterable[int]) -> list[tuple[str, int]]:
        return [(topic, number) for topic in sorted(self._topics) for number in sorted(numbers)]

    def _partition(self, number: int, tables: Mapping[str, Table[Any]]) -> Partition[Any]:
        return Partition(
            stage=self.stage, number=number, tables=tables, changelogs={name: self.changelog(name) for name in tables},
            writer=self._writer, mirrors=self._mirrors, budget=self._budget, one_at_a_time=self._one_at_a_time, sizes=self._sizes,
            fail=self.fail, fenced=self._on_fenced, now=self._now, drain_seconds=self._drain_seconds, poison_limit=self._poison_limit,
            end_reason=self._end_reason.found,
        )  # fmt: skip
