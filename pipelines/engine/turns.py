"""The turns of one partition of one stage: one after the other, never two at a time.

    inputs   = records fetched + calls finished, when something is there or due
    decision = decide(inputs, state, now)
    one transaction: outputs + changelog rows + dead letters + source offsets
    calls started, sinks written: only after the commit

Other partitions decide while this one commits. An error after the decision ends the worker: its memory is ahead of Kafka then.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

import structlog

from pipelines.engine import offset_metadata, turn_offsets
from pipelines.engine.batch_queue import Batch, BatchQueue
from pipelines.engine.calls import Budget, Calls
from pipelines.engine.crash_loop import CrashLoopGuard, OneAtATime, blank
from pipelines.engine.dead_letters import dead_letters, lost_records
from pipelines.engine.decisions import Decisions, Undone
from pipelines.engine.kafka_sizes import KafkaSizes
from pipelines.engine.mirrors import Mirrors
from pipelines.engine.poison import LIMIT, NotData
from pipelines.engine.recent_turns import RecentTurns
from pipelines.engine.stage import Decision, Inputs, Refusal, Stage, Tables
from pipelines.engine.transactional_producer import Rows
from pipelines.engine.transactions import CommitFailed, Fenced, HeldOffset, TurnContents
from pipelines.engine.turn_metrics import count_turn
from pipelines.engine.turn_size import TurnSize
from pipelines.engine.unread_sources import UnreadSources
from pipelines.engine.writer import Writer
from schemas.tracebacks import described_error, formatted
from tables.table import StoreFailed

S = TypeVar("S")
Now = Callable[[], int]
Source = tuple[str, int]  # topic and partition
log = structlog.get_logger(__name__)


class Partition(Generic[S]):
    """Runs the turns of one partition, as a task of the worker's event loop. No method blocks the loop.

    Order of calls: `take_over`, `start`, then `submit`, `wake` and `note_idle` at any time, and `stop`; after `stop` it may be taken over
    and started again with the same tables, or be given up for good with `abandon`. A rebalance stops all partitions of a worker first.

    `fail(reason)` ends the worker. `fenced(number)` reports that the partition may belong to another worker: this object takes no further
    turn, and its tables must not be used any more. `done` counts the records of each source that committed turns have taken since `start`.
    `progressed_at` is when a turn committed last, or a wait for a sink ended (time.monotonic()). `recent` are the last turns.
    """

    def __init__(
        self,
        *,
        stage: Stage[S],
        number: int,
        tables: Tables,
        changelogs: Mapping[str, str],
        writer: Writer,
        mirrors: Mirrors,
        budget: Budget,
        one_at_a_time: OneAtATime,
        sizes: KafkaSizes,
        fail: Callable[[str], None],
        fenced: Callable[[int], None],
        now: Now,
        drain_seconds: float,
        poison_limit: int = LIMIT,
        end_reason: str = "",
    ) -> None:
        self.number = number
        self.tables = tables
        self.turns = 0
        self.done: Counter[Source] = Counter()
        self.waiting_for_sink = False
        self.progressed_at = time.monotonic()
        self._transaction_ended = 0.0
        self._stage = stage
        self._changelogs = changelogs
        self._decisions = Decisions(
            stage=stage, number=number, tables=tables, changelogs=changelogs, sizes=sizes, poison_limit=poison_limit
        )
        self._isolation = self._decisions.isolation
        self._writer = writer
        self._views = mirrors.views
        self._one_at_a_time = one_at_a_time
        self._crash_loop = CrashLoopGuard(number, one_at_a_time)
        self._fail = fail
        self._fenced = fenced
        self._now = now
        self._drain_seconds = drain_seconds
        self._end_reason = end_reason
        self._turn_size = TurnSize(stage.turn_records, stage.turn_ms / 1000)
        self._queue = BatchQueue(
            takes=lambda topic: stage.takes(topic, self.state), first=(s.topic for s in stage.sources if s.first)
        )
        self._deleted: dict[Source, tuple[int, int]] = {}
        self._passed: dict[Source, int] = {}  # where idle sources end, behind markers of transactions
        self.unread = UnreadSources()
        self.recent = RecentTurns()
        self._poison: list[Batch] = []  # found to be poison, not committed yet
        self._calls = self._new_calls(budget, mirrors)
        self._committed: dict[Source, int] = {}
        self._wake = asyncio.Event()
        self._waiting = self._delayed = False  # waits for something to decide on; waits because of Stage.turn_delay
        self._stopping = False
        self._stop_asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def _new_calls(self, budget: Budget, mirrors: Mirrors) -> Calls:
        return Calls(
            budget=budget,
            perform=partial(mirrors.perform, self._stage),
            news=self.wake,
            now=self._now,
            wants=lambda room: self._stage.wants_calls(self.state, room),
            fail=lambda why: self._fail(f"partition {self.number}: {why}"),
        )

    @property
    def state(self) -> S:
        return self._decisions.state

    @property
    def held(self) -> bool:
        """Whether it waits on purpose: the stage takes nothing of what is there, or lets other partitions go first."""
        return self._delayed or (self._waiting and self._queue.held)

    async def take_over(self, held: Mapping[Source, HeldOffset], committed: Mapping[Source, int]) -> None:
        """Counts this start in the metadata of the group's offsets, before `start`. `held` is what the group holds, `committed` is the
        offset of the next record of every source. Raises Fenced or CommitFailed."""
        metadata = [offset_metadata.read(found.metadata) for found in held.values()]
        self._crash_loop.take_over(metadata, 2 * self._stage.turn_records, self._stage.name)
        self._committed = dict(committed)
        self._writer.note_held(held)
        await self._writer.commit(self._crash_loop.recorded(TurnContents(offsets=self._committed)))

    def start(
        self,
        *,
        committed: Mapping[Source, int],
        caught_up: Callable[[], bool],
        deleted: Mapping[Source, tuple[int, int]] | None = None,
    ) -> None:
        """Starts the turns with a state derived anew; records that were not committed come again. What `Stage.open` raises is raised.

        `committed` is the next offset of each source. Until `caught_up` returns True, only the stage's first sources are taken. `deleted`
        are offsets, first and end, that Kafka has deleted unread: the first turn refuses them and steps over them.
        """
        self._stopping = False
        self._stop_asked.clear()
        self._writer.give_up_in(None)
        self.done.clear()
        self._deleted = dict(deleted or {})
        self._decisions.derive()
        ends = {source: end for source, (_, end) in self._deleted.items()}
        self._committed = {**committed, **ends}
        self._queue.start(caught_up)
        self._task = asyncio.create_task(self._run(), name=f"{self._stage.name}-{self.number}")

    def submit(self, batch: Batch) -> None:
        """Adds a batch; those of one source must come in offset order. A batch is released when its turn is over, or by `stop`."""
        if self._stopping:
            batch.release()
            return
        self._queue.add(batch)
        self._wake.set()

    def wake(self) -> None:
        """Makes the partition look again: a call has ended, there is room for calls, or records have arrived."""
        self._wake.set()

    def note_idle(self, ends: Mapping[Source, int]) -> None:
        """Notes that every source was read and taken to its end (`ends`). Between its last record and its end there are only markers of
        transactions: the group's offsets pass over them once, so that Kafka's tools show no lag."""
        if self._stopping or not self._stage.is_done(self.state):
            return
        passed = {source: end for source, end in ends.items() if end > self._committed.get(source, 0)}
        if passed or self._crash_loop.is_recorded:
            self._crash_loop.release()
            self._passed = passed or dict(list(self._committed.items())[:1])
            self._wake.set()

    def abandon(self) -> None:
        """Gives the stopped partition up for good: cancels its calls. Its next owner finds their intents in the tables."""
        self._calls.cancel()
        self._crash_loop.release()

    async def stop(self) -> None:
        """Stops the turns: finishes the open one, waits up to `drain_seconds` for calls in flight, commits their results, and releases the
        batches that wait. Calls that take longer continue. Raises nothing that is expected."""
        self._stopping = True
        self._stop_asked.set()
        self._writer.give_up_in(self._drain_seconds)
        for batch in (*self._poison, *self._queue.clear()):
            batch.release()
        self._poison.clear()
        self._isolation.forget()
        self._wake.set()
        if self._task is not None:
            await self._task
            self._task = None
        with suppress(CommitFailed):  # for a partition that was taken over and never started
            await self._record_clean_end()

    async def _run(self) -> None:
        try:
            while not self._stopping:
                inputs, batches = await self._gather()
                async with self._one_at_a_time.turn():
                    await self._turn(inputs, batches)
            await self._drain()
        except Fenced as error:
            log.warning("fenced", stage=self._stage.name, partition=self.number, detail=str(error))
            self._fenced(self.number)
        except (NotData, StoreFailed) as error:
            self._writer.give_up_in(0.0)
            with suppress(CommitFailed):
                await self._record_clean_end()
            self._fail(f"partition {self.number}: {error}")
        except Exception as error:  # noqa: BLE001  # crash-only: after any error this worker's memory cannot be trusted
            log.error("turn failed", stage=self._stage.name, partition=self.number, traceback=formatted(error))
            self._fail(f"partition {self.number}: {described_error(error)}")

    async def _drain(self) -> None:
        await self._calls.end(self._drain_seconds)
        while self._calls.has_results:
            await self._turn(Inputs([], self._calls.take_results(), closing=True, views=self._views), [])
        await self._record_clean_end()

    async def _record_clean_end(self) -> None:
        """Commits that this start ended without a crash, so that the next start counts from one again."""
        if self._crash_loop.is_recorded:
            self._crash_loop.release()
            await self._writer.commit(self._crash_loop.recorded(TurnContents(offsets=self._committed)))

    async def _gather(self) -> tuple[Inputs, list[Batch]]:
        """Waits until there is something to decide on, then takes what is there, up to the turn's bound."""
        while not self._stopping:
            self._wake.clear()
            rest = self._linger_left()
            if rest > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop_asked.wait(), rest)
            await self._wait_for_delay()
            batches = self._queue.take(self._stage.turn_records, self._at_most())
            due = self._stage.next_due(self.state)
            now = self._now()
            kept = self._calls.has_results or self._calls.wanted or self._poison or self._deleted or self._passed
            if batches or kept or (due is not None and due <= now):
                records = [record for batch in batches for record in batch.records]
                reading = self.unread.look(batches, self._queue.topics())
                return Inputs(records, self._calls.take_results(), self._stopping, reading, self._views), batches
            timeout = None if due is None else max(0.0, (due - now) / 1000)
            self._waiting = True
            try:
                await asyncio.wait_for(self._wake.wait(), timeout)
            except TimeoutError:
                continue
            finally:
                self._waiting = False
        return Inputs([], self._calls.take_results(), closing=True, views=self._views), []

    def _at_most(self) -> int | None:
        """How many records the next turn may take, None for as many as the stage takes at most."""
        if self._crash_loop.on:
            return 1
        return self._isolation.at_most or (self._turn_size.at_most if self._turn_size.is_less else None)

    async def _wait_for_delay(self) -> None:
        """Waits as long as Stage.turn_delay asks for, if there are records and the turn need not start at once."""
        while (
            self._queue.records()
            and not self._starts_at_once()
            and (seconds := self._stage.turn_delay(self.number)) > 0
        ):
            self._delayed = True
            if not self._crash_loop.counts:
                # the turn before is complete, and this wait may be long
                await self._record_clean_end()
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), seconds)
        self._delayed = False

    def _starts_at_once(self) -> bool:
        """Whether the next turn does not wait for more records or for other partitions."""
        full = self._queue.records() >= self._turn_size.at_most
        return self._stopping or self._crash_loop.on or self._isolation.at_most is not None or full

    def _linger_left(self) -> float:
        """Seconds until the stage's linger is over; not more than 0 when the next turn starts at once."""
        linger = 0.0 if self._starts_at_once() else self._stage.linger_ms / 1000
        return linger - (time.monotonic() - self._transaction_ended)

    async def _turn(self, inputs: Inputs, batches: list[Batch]) -> None:
        began, now = time.perf_counter(), self._now()
        crashed: Refusal | None = None
        if self._crash_loop.on and inputs.records:
            inputs, crashed = await self._guarded(inputs)
        decided = self._decide(inputs, now)
        if isinstance(decided, Undone):
            self._undone(decided, inputs, batches)
            await asyncio.sleep(0)  # lets the other partitions continue
            return
        decision, rows = decided
        self._turn_size.decided(len(inputs.records), time.perf_counter() - began)
        decision.refusals += self._isolation.decided(len(inputs.records))
        batches, self._poison = self._poison + batches, []
        offsets = self._offsets(decision, batches)
        decision.refusals = turn_offsets.new_refusals(decision.refusals, batches, self._committed)
        decision.refusals += [lost_records(source, *offsets) for source, offsets in self._deleted.items()]
        if crashed is not None:
            decision.refusals = [r for r in decision.refusals if r.record[:3] != crashed.record[:3]] + [crashed]
        self._deleted = {}
        await self._commit(decision, rows, offsets, len(inputs.records), now)
        self.unread.committed(decision)
        self._count(batches, decision, time.perf_counter() - began)
        self._calls.start()
        if decision.calls:
            # every call begins before the next decision, which would take its intent for a crashed worker's
            await asyncio.sleep(0)
        self.waiting_for_sink = True
        await self._stage.write(decision)
        self.waiting_for_sink = False
        self.progressed_at = time.monotonic()  # else the watchdog would take a long wait for no progress
        if decision.writes is not None:
            self._crash_loop.done(len(inputs.records))
        for batch in batches:
            batch.release()
        if not inputs.records and not inputs.results:
            await asyncio.sleep(0)  # a time that stays due must not starve the loop

    def _decide(self, inputs: Inputs, now: int) -> tuple[Decision, list[Rows]] | Undone:
        if inputs.closing:
            return self._decisions.decide(inputs, now)
        decided = self._decisions.decide(inputs._replace(room=self._calls.reserve()), now)
        self._calls.keep([] if isinstance(decided, Undone) else decided[0].calls)
        return decided

    async def _guarded(self, inputs: Inputs) -> tuple[Inputs, Refusal | None]:
        """In a crash loop: names the record in the group's offsets before it is decided on. Returns what to decide on, and the refusal of
        the record if it is the one that ended the worker."""
        (record,) = inputs.records
        if self._crash_loop.is_blamed(record):
            refusal = self._crash_loop.refusal(record, self._stage.name, self._end_reason)
            return inputs._replace(records=[blank(record)]), refusal
        self._crash_loop.trying = (record.topic, record.offset)
        await self._writer.commit(self._crash_loop.recorded(TurnContents(offsets=self._committed)))
        return inputs, None

    def _offsets(self, decision: Decision, batches: list[Batch]) -> dict[Source, int]:
        offsets = turn_offsets.after(self._committed, batches, decision.offsets, self._deleted, self._passed)
        self._passed = {}
        return offsets

    def _undone(self, why: Undone, inputs: Inputs, batches: list[Batch]) -> None:
        """Puts the inputs of a decision that was rolled back into the next turn, except a record that is to blame."""
        self._calls.put_back(inputs.results)
        if why is Undone.POISON:
            self._poison += batches
            return
        if why is Undone.SMALLER:
            self._turn_size.undone(len(inputs.records))
        self._queue.put_back(batches)

    async def _commit(
        self, decision: Decision, rows: list[Rows], offsets: dict[Source, int], records: int, now: int
    ) -> None:
        letters = dead_letters(self._stage.name, decision.refusals, now)
        ends: Mapping[str, int] = {}
        if offsets or decision.outputs or letters or rows:
            offsets = offsets or dict(list(self._committed.items())[:1])
            if decision.writes is None:
                self._crash_loop.done(records)
            elif self._crash_loop.counts:
                # a sink's turn is complete when it is written outside: until then the metadata keeps its count
                offsets = {**self._committed, **offsets}
            contents = TurnContents([*decision.outputs, *letters], rows, offsets)
            ends = await self._writer.commit(self._crash_loop.recorded(contents))
            self.recent.note(rows, ends, self._committed, offsets)
            self._committed.update(offsets)
            self._transaction_ended = time.monotonic()
        for name, table in self.tables.items():
            table.commit(ends.get(self._changelogs[name]))  # no row may reach a disk before it was committed

    def _count(self, batches: list[Batch], decision: Decision, seconds: float) -> None:
        self.turns += 1
        self.progressed_at = time.monotonic()
        records = 0
        for batch in batches:
            records += len(batch.records)
            self.done[batch.records[0].topic, batch.records[0].partition] += len(batch.records)
        count_turn(self._stage.name, records, decision, seconds)
