"""The engine of one worker: its partitions, from assignment to revocation.

assigned -> offsets and changelogs stable -> restore -> seek -> turns -> revoked -> last turn, calls drained. One producer serves all
partitions; the group's generation fences what it commits. A partition that stays with this worker keeps its tables if the group still
holds what this worker committed last: an owner in between would have committed offsets with metadata of its own.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog

from pipelines.engine.batch_queue import Batch, BatchEvent
from pipelines.engine.engine_state import EngineState
from pipelines.engine.fetch import Fetch
from pipelines.engine.garbage_collection import collect_garbage, favour_long_decisions
from pipelines.engine.poison import raised_where
from pipelines.engine.restore import RestoreProgress, restore
from pipelines.engine.stage import Record
from pipelines.engine.start_offsets import check_committed
from pipelines.engine.start_offsets import deleted as deleted_before
from pipelines.engine.takeover import while_kafka_starts
from pipelines.engine.topic_identity import UnusableTopics
from pipelines.engine.transactions import Fenced, HeldOffset, IdTaken
from pipelines.engine.turns import Partition
from schemas import metrics
from tables.table import Table

log = structlog.get_logger(__name__)
STOP_SECONDS = 45.0  # below the group's rebalance time-out, 60 s, for which all workers would wait


class Engine(EngineState):
    """Owns the partitions of one stage in one worker.

    All methods but `check` run in the event loop of the worker's Faust app and do not block it; calls to Kafka run in threads. At a
    rebalance the callers call, in this order: `give_up` (the transport, before partitions are revoked), `take_over` (Faust's recovery, with
    the new assignment), `start_partitions` (the transport, when Faust asks it to seek). A newer rebalance makes an older takeover void:
    each step asks `is_current` and stops early.
    """

    def check(self) -> None:
        """Raises UnusableTopics, one line, when the stage cannot work with its topics. Blocks; to be called before the worker joins."""
        self._topic_identity.check()

    # --- called by Faust's recovery -------------------------------------------------------------------------------------

    def source_partitions(self, assignment: Iterable[Any]) -> set[int]:
        """Numbers of the assigned partitions of this stage's sources."""
        return {tp.partition for tp in assignment if tp.topic in self._topics}

    def is_current(self, generation: int) -> bool:
        """Whether this is still the group's generation, and its partitions were not given up."""
        return self.consumer.generation == generation != self._given_up

    async def give_up(self) -> None:
        """Prepares a rebalance: stops every partition, each after its open turn and its calls. Raises nothing; takes up to STOP_SECONDS.

        From now on this worker ends no other worker's transactions. One that it is ending is waited for first: the writer may be a member
        of the next generation.
        """
        self._given_up = self.consumer.generation
        await self._takeover.ended()
        await self.stop_partitions()

    async def take_over(self, numbers: set[int], is_current: Callable[[], bool]) -> bool:
        """Makes this worker the owner of exactly these partitions: drops the others, and restores those that are new, that were fenced, or
        that another worker has had. The first call opens the mirrors and starts the stage.

        Returns False when a newer rebalance made it void. Takes as long as the restore. Raises KafkaException (may be called again),
        UnusableTopics, StoreFailed, RestoreFailed and what the stage raises: after those the worker has to end.
        """
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
            log.warning("partition changed by another worker, restored again", stage=self.stage.name, partition=number)
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
            "partitions taken over",
            stage=self.stage.name,
            partitions=sorted(numbers),
            restored=fresh,
            rows=rows,
            seconds=round(time.monotonic() - began, 2),
        )
        return True

    async def start_partitions(self, is_current: Callable[[], bool]) -> None:
        """Seeks to the committed offsets (a sink: to its own offsets) and lets the partitions take turns. Does nothing when a newer
        rebalance has made it void. Raises as `take_over` does."""
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
        if not is_current():  # this is no crash: `stop` takes the starts just recorded back
            await asyncio.gather(*(partition.stop() for partition in self.partitions.values()))
            return
        if self._fetch is None:
            self._fetch = Fetch(
                kafka=self._kafka,
                group=self._app_id,
                pause_above=4 * self.stage.turn_records,
                min_bytes=self.stage.fetch_min_bytes,
                wait_ms=self.stage.fetch_wait_ms,
                gather_ms=self.stage.fetch_gather_ms,
                on_records=self._on_news,
                on_failure=self.fail,
                on_lost=self.connection.lost,
                on_found=self.connection.found,
            )
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
        """Lets every partition finish its turn and its calls, also one whose start was recorded and that has not begun. Afterwards nothing
        is fetched and no transaction is open. Ends the worker when this takes longer than STOP_SECONDS."""
        if self._fetch is not None:
            self._fetch.assign({})
        self._running = set()
        stopping = asyncio.gather(*(partition.stop() for partition in self.partitions.values()))
        try:
            await asyncio.wait_for(stopping, STOP_SECONDS)
        except TimeoutError:
            self.fail(f"partitions {sorted(self.partitions)} did not end their turns in {STOP_SECONDS:.0f} s")

    async def close(self) -> None:
        """Stops everything and leaves; to be called once, when the worker ends in good order."""
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

    # --- called by the transport and the agents -------------------------------------------------------------------------

    def waiting(self) -> list[tuple[str, int]]:
        """Sources, (topic, partition), with fetched records to take."""
        return self._fetch.waiting() if self._fetch is not None else []

    def take(self, source: tuple[str, int]) -> list[Record]:
        """Fetched records of a source, in offset order, at most `turn_records`; empty when there are none."""
        return self._fetch.take(source, self.stage.turn_records) if self._fetch is not None else []

    def submit(self, message: BatchEvent) -> None:
        """Gives a batch that came through Faust's agent to its partition. A batch of an older start is dropped: its records come again."""
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

    def _on_news(self) -> None:
        self.consumer.news()
        for partition in self.partitions.values():
            partition.wake()

    def _on_fenced(self, number: int) -> None:
        """Marks all partitions of the worker as fenced, not only this one: they share the producer. The first call starts `_reopen`."""
        first = not self._fenced
        self._fenced.update(self.partitions, [number])
        if first:
            self._reopening = asyncio.create_task(self._reopen(self.consumer.generation), name="reopen")

    async def _reopen(self, generation: int) -> None:
        """Takes the partitions over again if the group still gives them to this worker. After a rebalance there is nothing to do here: a
        worker that was expelled joins again, and the takeover of that assignment restores its partitions."""

        def is_current() -> bool:
            return self.is_current(generation)

        # an expelled worker learns that within the session time-out; only after it is the known generation reliable
        await asyncio.sleep(self._session_seconds)
        if not is_current():
            return
        if isinstance(self._writer.fenced, IdTaken):
            self.identity.renew()  # no worker that took this one for crashed has it: this one is still a member

        async def again() -> None:
            if await self.take_over(set(self.partitions), is_current):
                await self.start_partitions(is_current)

        try:
            await while_kafka_starts(again, is_current=is_current, seconds=self.stuck_seconds)
        except UnusableTopics as error:
            self.fail(str(error))
        except Exception as error:  # noqa: BLE001  # a worker that cannot restore must end, not linger
            self.fail(f"opening partitions again failed: {raised_where(error)}")

    async def _record_start(
        self, number: int, held: Mapping[tuple[str, int], HeldOffset], committed: Mapping[tuple[str, int], int]
    ) -> None:
        """Records in the group's offsets that the partition was started, before it does anything."""
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

    def _partition(self, number: int, tables: Mapping[str, Table[Any]]) -> Partition[Any]:
        return Partition(
            stage=self.stage,
            number=number,
            tables=tables,
            changelogs={name: self.changelog(name) for name in tables},
            writer=self._writer,
            mirrors=self._mirrors,
            budget=self._budget,
            one_at_a_time=self._one_at_a_time,
            sizes=self._sizes,
            fail=self.fail,
            fenced=self._on_fenced,
            now=self._now,
            drain_seconds=self._drain_seconds,
            poison_limit=self._poison_limit,
            end_reason=self._end_reason.found,
        )
