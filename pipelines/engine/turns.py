"""One partition of one stage: its turns, one after the other, never two open at once.

    inputs   = records fetched + calls finished, when something is there or due
    decision = decide(inputs, state, now)
    one transaction: outputs + changelog rows + dead letters + source offsets
    calls started, sinks written: only after the commit

Other partitions decide while this one commits. Anything that goes wrong after the decision ends the worker: the memory is ahead
of Kafka then, and a fresh start from the changelog is the only state known to be right.
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
from pipelines.engine.dead_letters import dead_letter, lost_records
from pipelines.engine.decisions import Decisions, Undone
from pipelines.engine.kafka_sizes import KafkaSizes
from pipelines.engine.mirrors import Mirrors
from pipelines.engine.poison import LIMIT, NotData
from pipelines.engine.stage import Decision, Inputs, Refusal, Stage, Tables
from pipelines.engine.transactional_producer import Rows
from pipelines.engine.transactions import CommitFailed, Fenced, HeldOffset, TurnContents
from pipelines.engine.turn_metrics import count_turn
from pipelines.engine.turn_size import TurnSize
from pipelines.engine.unread_sources import UnreadSources
from pipelines.engine.writer import Writer
from schemas.tracebacks import described_error, formatted, unquoted
from tables.table import StoreFailed

S = TypeVar("S")
Now = Callable[[], int]
Source = tuple[str, int]  # topic and partition
log = structlog.get_logger(__name__)


class Partition(Generic[S]):
    """Runs the turns of one partition. `fail` ends the worker; it is given one line that says why. `fenced` is told that the
    partition may be somebody else's: this object takes no further turn, and its memory must not be used any more.

    `done` counts the records of each source that committed turns have taken since `start`."""

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
        self.progressed_at = time.monotonic()  # when a turn committed last, or a wait for a sink ended
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
        self._poison: list[Batch] = []  # found to be poison, not committed yet
        self._calls = Calls(
            budget=budget, perform=partial(mirrors.perform, stage), news=self.wake, now=now,
            wants=lambda room: stage.wants_calls(self.state, room), fail=lambda why: self._fail(f"partition {number}: {why}"),
        )  # fmt: skip
        self._committed: dict[Source, int] = {}
        self._wake = asyncio.Event()
        self._waiting = self._delayed = False  # for something to decide on; for its place among the partitions
        self._stopping = False
        self._stop_asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> S:
        return self._decisions.state

    @property
    def held(self) -> bool:
        """Whether it waits on purpose: the stage takes nothing of what is there for a time, or lets other partitions go first."""
        return self._delayed or (self._waiting and self._queue.held)

    async def take_over(self, held: Mapping[Source, HeldOffset], committed: Mapping[Source, int]) -> None:
        """Counts this start in the group's offsets, before `start`. `held` is what the group holds, `committed` where it is to stand,
        for every source. Raises Fenced or CommitFailed."""
        marks = [offset_metadata.read(found.mark) for found in held.values()]
        self._crash_loop.take_over(marks, 2 * self._stage.turn_records)
        if self._crash_loop.on:
            log.error(
                "taking records one by one",
                stage=self._stage.name,
                partition=self.number,
                start=self._crash_loop.starts,
                blamed=self._crash_loop.blamed,
                reason="the worker ended again and again at this place",
            )
        self._committed = dict(committed)
        self._writer.note_held(held)
        await self._writer.commit(self._crash_loop.marked(TurnContents(offsets=self._committed)))

    def start(
        self,
        *,
        committed: Mapping[Source, int],
        caught_up: Callable[[], bool],
        deleted: Mapping[Source, tuple[int, int]] | None = None,
    ) -> None:
        """Starts taking turns, with a state derived anew: records not committed before come again. `committed` is where the
        group stands; until `caught_up` says that the stage's first sources were read to their end, nothing else is taken.
        `deleted` are offsets, first and end, that can be read no more: the first turn says so and steps over them."""
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
        """Hands over records; batches of one source partition come in offset order."""
        if self._stopping:
            batch.release()
            return
        self._queue.add(batch)
        self._wake.set()

    def wake(self) -> None:
        """Something outside changed that may let a held source go, or a call has ended."""
        self._wake.set()

    def note_idle(self, ends: Mapping[Source, int]) -> None:
        """Every source was read to its end and taken; `ends` is where they end. What lies between the last record and the end are
        markers of transactions: the group's offsets pass over them once, so that whoever asks Kafka finds no lag."""
        if self._stopping or not self._stage.is_done(self.state):
            return
        passed = {source: end for source, end in ends.items() if end > self._committed.get(source, 0)}
        if passed or self._crash_loop.is_marked:
            self._crash_loop.release()
            self._passed = passed or dict(list(self._committed.items())[:1])
            self._wake.set()

    def abandon(self) -> None:
        """The partition is no longer ours: nobody waits for its calls any more; its next owner finds their intents."""
        self._calls.cancel()
        self._crash_loop.release()

    async def stop(self) -> None:
        """Finishes the open turn, waits a bounded time for calls in flight and commits their results; takes no more records."""
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
        with suppress(CommitFailed):  # of one that was taken over and never started
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
        except Exception as error:  # noqa: BLE001  # crash-only: whatever it is, this worker's memory can no longer be trusted
            log.error("turn failed", stage=self._stage.name, partition=self.number, traceback=formatted(error))
            self._fail(f"partition {self.number}: {described_error(error)}")

    async def _drain(self) -> None:
        await self._calls.end(self._drain_seconds)
        while self._calls.has_results:
            await self._turn(Inputs([], self._calls.take_results(), closing=True, views=self._views), [])
        await self._record_clean_end()

    async def _record_clean_end(self) -> None:
        """What ends here does not end because of a record: the next start counts from one."""
        if self._crash_loop.is_marked:
            self._crash_loop.release()
            await self._writer.commit(self._crash_loop.marked(TurnContents(offsets=self._committed)))

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
        """Until the stage lets this partition go before the others, if it has records and is not in a hurry."""
        while (
            self._queue.records()
            and not self._starts_at_once()
            and (seconds := self._stage.turn_delay(self.number)) > 0
        ):
            self._delayed = True
            if not self._crash_loop.counts:
                await (
                    self._record_clean_end()
                )  # the turn before is done with: Kafka is to know it, however long this takes
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), seconds)
        self._delayed = False

    def _starts_at_once(self) -> bool:
        """Whether the next turn waits for no company."""
        full = self._queue.records() >= self._turn_size.at_most
        return self._stopping or self._crash_loop.on or self._isolation.at_most is not None or full

    def _linger_left(self) -> float:
        """Seconds until the next turn may start: after the stage's linger unless a turn is full."""
        linger = 0.0 if self._starts_at_once() else self._stage.linger_ms / 1000
        return linger - (time.monotonic() - self._transaction_ended)

    async def _turn(self, inputs: Inputs, batches: list[Batch]) -> None:
        began, now = time.perf_counter(), self._now()
        inputs, crashed = await self._guarded(inputs)
        decided = self._decide(inputs, now)
        if isinstance(decided, Undone):
            self._undone(decided, inputs, batches)
            await asyncio.sleep(0)  # the other partitions go on meanwhile
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
            await asyncio.sleep(0)  # every call has begun before the next decision: its intent is no dead worker's
        self.waiting_for_sink = True
        await self._stage.write(decision)
        self.waiting_for_sink = False
        self.progressed_at = time.monotonic()  # else the first look after a long wait would take it for a standstill
        if decision.writes is not None:
            self._crash_loop.done(len(inputs.records))
        for batch in batches:
            batch.release()
        if not inputs.records and not inputs.results:
            await asyncio.sleep(0)  # a due that stays due must not starve the loop

    def _decide(self, inputs: Inputs, now: int) -> tuple[Decision, list[Rows]] | Undone:
        if inputs.closing:
            return self._decisions.decide(inputs, now)
        decided = self._decisions.decide(inputs._replace(room=self._calls.reserve()), now)
        self._calls.keep([] if isinstance(decided, Undone) else decided[0].calls)
        return decided

    async def _guarded(self, inputs: Inputs) -> tuple[Inputs, Refusal | None]:
        """While the brake is on: a record is named in the group's offsets before it is decided on, and the one the worker ended on is
        not read again. Returns what to decide on, and that record's refusal."""
        if not self._crash_loop.on or not inputs.records:
            return inputs, None
        (record,) = inputs.records
        if self._crash_loop.is_blamed(record):
            refusal = self._crash_loop.refusal(record, self._stage.name, self._end_reason)
            detail = unquoted(refusal.detail)
            log.error("refused what the worker ended on", stage=self._stage.name, place=record[:3], detail=detail)
            return inputs._replace(records=[blank(record)]), refusal
        self._crash_loop.trying = (record.topic, record.offset)
        await self._writer.commit(self._crash_loop.marked(TurnContents(offsets=self._committed)))
        return inputs, None

    def _offsets(self, decision: Decision, batches: list[Batch]) -> dict[Source, int]:
        offsets = turn_offsets.after(self._committed, batches, decision.offsets, self._deleted, self._passed)
        self._passed = {}
        return offsets

    def _undone(self, why: Undone, inputs: Inputs, batches: list[Batch]) -> None:
        """Nothing is left of the decision; its inputs come again, all but a record that is to blame."""
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
        letters = [dead_letter(refusal.stage or self._stage.name, refusal, now) for refusal in decision.refusals]
        ends: Mapping[str, int] = {}
        if offsets or decision.outputs or letters or rows:
            offsets = offsets or dict(list(self._committed.items())[:1])
            if decision.writes is None:
                self._crash_loop.done(records)
            elif self._crash_loop.counts:
                # a sink's turn is done with once it is written outside: until then its mark stays
                offsets = {**self._committed, **offsets}
            contents = TurnContents([*decision.outputs, *letters], rows, offsets)
            ends = await self._writer.commit(self._crash_loop.marked(contents))
            self._committed.update(offsets)
            self._transaction_ended = time.monotonic()
        for name, table in self.tables.items():
            table.commit(ends.get(self._changelogs[name]))  # nothing may reach a disk before it was committed

    def _count(self, batches: list[Batch], decision: Decision, seconds: float) -> None:
        self.turns += 1
        self.progressed_at = time.monotonic()
        records = 0
        for batch in batches:
            records += len(batch.records)
            self.done[batch.records[0].topic, batch.records[0].partition] += len(batch.records)
        count_turn(self._stage.name, records, decision, seconds)
