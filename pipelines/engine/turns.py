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
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog

from pipelines.engine.dead_letters import dead_letter, lost_records
from pipelines.engine.poison import LIMIT, Isolation, NotData, raised_where
from pipelines.engine.stage import Call, Decision, Inputs, Output, Record, Refusal, Result, Stage, Tables
from pipelines.engine.transactions import Fenced, Transactions, in_time
from schemas import metrics
from tables.table import StoreFailed

S = TypeVar("S")
Now = Callable[[], int]
Source = tuple[str, int]  # topic and partition
log = structlog.get_logger(__name__)
# Between two transactions of one producer the broker still writes markers; a begin before they are written is refused and tried
# again after 20 ms and more (measured: p95 of a transaction 128 ms back to back, 7 ms with this rest).
REST_SECONDS = 0.003
FEWEST_RECORDS = 16  # a turn may take so many however long they take: its transaction has a price too


@dataclass(slots=True)
class Batch:
    """Records of one source partition that wait for a turn. `release` tells the transport that they are done with."""

    records: list[Record]
    release: Callable[[], None]

    def split(self, at: int) -> "tuple[Batch, Batch]":
        """The records before and after; the transport hears of it when the latter are done with."""
        return Batch(self.records[:at], lambda: None), Batch(self.records[at:], self.release)


class Partition(Generic[S]):
    """Runs the turns of one partition. `fail` ends the worker; it is given one line that says why. `fenced` is told that somebody
    else has opened the partition's producer: this object takes no further turn, and its memory must not be used any more."""

    def __init__(
        self,
        *,
        stage: Stage[S],
        number: int,
        tables: Tables,
        changelogs: Mapping[str, str],
        transactions: Transactions,
        executor: Executor,
        fail: Callable[[str], None],
        fenced: Callable[[int], None],
        now: Now,
        drain_seconds: float,
        poison_limit: int = LIMIT,
    ) -> None:
        self.number = number
        self.tables = tables
        self.transactions = transactions
        self.turns = 0
        self.waiting_for_sink = False
        self.progressed_at = time.monotonic()  # when a turn committed last, or a wait for a sink ended
        self._transaction_ended = 0.0
        self._stage = stage
        self._changelogs = changelogs
        self._executor = executor
        self._fail = fail
        self._fenced = fenced
        self._now = now
        self._drain_seconds = drain_seconds
        self._state = stage.open(number, tables)
        self._isolation = Isolation(stage.name, poison_limit)
        self._at_most = stage.turn_records  # fewer while decisions take too long
        self._batches: deque[Batch] = deque()
        self._deleted: dict[Source, tuple[int, int]] = {}
        self._condemned: list[Batch] = []  # found to be poison, not committed yet
        self._results: list[Result] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._committed: dict[Source, int] = {}
        self._caught_up: Callable[[], bool] = lambda: True
        self._waiting_for_first = False
        self._first = {source.topic for source in stage.sources if source.first}
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> S:
        return self._state

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
        self._deleted = dict(deleted or {})
        self._state = self._stage.open(self.number, self.tables)
        ends = {source: end for source, (_, end) in self._deleted.items()}
        self._committed = {**committed, **ends}
        self._caught_up = caught_up
        self._waiting_for_first = any(source.first for source in self._stage.sources)
        self._task = asyncio.create_task(self._run(), name=f"{self._stage.name}-{self.number}")

    def submit(self, batch: Batch) -> None:
        """Hands over records; batches of one source partition come in offset order."""
        if self._stopping:
            batch.release()
            return
        self._batches.append(batch)
        self._wake.set()

    def wake(self) -> None:
        """Something outside changed that may let a held source go."""
        self._wake.set()

    def abandon(self) -> None:
        """The partition is no longer ours: nobody waits for its calls any more; its next owner finds their intents."""
        for call in self._calls:
            call.cancel()

    async def stop(self) -> None:
        """Finishes the open turn, waits a bounded time for calls in flight and commits their results; takes no more records."""
        self._stopping = True
        for batch in (*self._condemned, *self._batches):
            batch.release()
        self._batches.clear()
        self._condemned.clear()
        self._isolation.forget()
        self._wake.set()
        if self._task is not None:
            await self._task
            self._task = None

    async def _run(self) -> None:
        try:
            while not self._stopping:
                inputs, batches = await self._gather()
                await self._turn(inputs, batches)
            await self._drain()
        except Fenced as error:
            log.warning("fenced", stage=self._stage.name, partition=self.number, detail=str(error))
            self._fenced(self.number)
        except (NotData, StoreFailed) as error:
            self._fail(f"partition {self.number}: {error}")
        except Exception as error:  # noqa: BLE001  # crash-only: whatever it is, this worker's memory can no longer be trusted
            log.error(
                "turn failed", stage=self._stage.name, partition=self.number, traceback=traceback.format_exc(limit=8)
            )
            self._fail(f"partition {self.number}: {error}")

    async def _drain(self) -> None:
        if self._calls:
            await asyncio.wait(self._calls, timeout=self._drain_seconds)
        if self._results:
            await self._turn(Inputs([], self._take_results(), closing=True), [])

    async def _gather(self) -> tuple[Inputs, list[Batch]]:
        """Waits until there is something to decide on, then takes what is there, up to the turn's bound."""
        while not self._stopping:
            self._wake.clear()
            rest = self._rest()
            if rest > 0:
                await asyncio.sleep(rest)
            batches = self._take_batches()
            due = self._stage.next_due(self._state)
            now = self._now()
            if batches or self._results or self._condemned or self._deleted or (due is not None and due <= now):
                records = [record for batch in batches for record in batch.records]
                return Inputs(records, self._take_results(), self._stopping), batches
            timeout = None if due is None else max(0.0, (due - now) / 1000)
            try:
                await asyncio.wait_for(self._wake.wait(), timeout)
            except TimeoutError:
                continue
        return Inputs([], self._take_results(), closing=True), []

    def _rest(self) -> float:
        """Seconds until the next turn may start: after the broker's markers, and after the stage's linger unless a turn is full."""
        waiting = sum(len(batch.records) for batch in self._batches)
        searching = self._isolation.at_most is not None
        linger = 0.0 if self._stopping or searching or waiting >= self._at_most else self._stage.linger_ms / 1000
        return max(linger, REST_SECONDS) - (time.monotonic() - self._transaction_ended)

    def _take_batches(self) -> list[Batch]:
        taken: list[Batch] = []
        kept: deque[Batch] = deque()
        held: set[str] = set()
        size = 0
        slow = self._at_most < self._stage.turn_records
        at_most = self._isolation.at_most or (self._at_most if slow else None)
        while self._batches:
            batch = self._batches.popleft()
            topic = batch.records[0].topic
            if size < (at_most or self._stage.turn_records) and topic not in held and self._may_take(topic):
                if at_most is not None and len(batch.records) > at_most - size:
                    batch, rest = batch.split(at_most - size)
                    self._batches.appendleft(rest)
                taken.append(batch)
                size += len(batch.records)
            else:
                held.add(topic)  # what follows from the same topic must not overtake it
                kept.append(batch)
        self._batches = kept
        return taken

    def _may_take(self, topic: str) -> bool:
        if self._waiting_for_first and topic not in self._first:
            self._waiting_for_first = not self._caught_up()
            if self._waiting_for_first:
                return False
        return self._stage.takes(topic, self._state)

    def _take_results(self) -> list[Result]:
        results, self._results = self._results, []
        return results

    async def _turn(self, inputs: Inputs, batches: list[Batch]) -> None:
        began = time.perf_counter()
        now = self._now()
        decision = self._decide(inputs, batches, now)
        if decision is None:
            await asyncio.sleep(0)  # the other partitions go on meanwhile
            return
        self._fit(len(inputs.records), time.perf_counter() - began)
        decision.refusals += self._isolation.decided(len(inputs.records))
        batches, self._condemned = self._condemned + batches, []
        offsets = {source: end for source, (_, end) in self._deleted.items()}
        offsets.update({(r.topic, r.partition): r.offset + 1 for batch in batches for r in (batch.records[-1],)})
        offsets.update(decision.offsets)
        # a sink that reads again what the group has passed must not move the group back
        offsets = {source: max(offset, self._committed.get(source, 0)) for source, offset in offsets.items()}
        decision.refusals = self._unheard(decision.refusals, batches)
        decision.refusals += [lost_records(source, *offsets) for source, offsets in self._deleted.items()]
        self._deleted = {}
        await self._commit(decision, offsets, now)
        self._count(sum(len(batch.records) for batch in batches), decision, time.perf_counter() - began)
        for call in decision.calls:
            self._start(call)
        if decision.calls:
            await asyncio.sleep(
                0
            )  # every call has begun before the next decision: its intent is not one of a dead worker
        self.waiting_for_sink = True
        await self._stage.settle(decision)
        self.waiting_for_sink = False
        self.progressed_at = time.monotonic()  # else the first look after a long wait would take it for a standstill
        for batch in batches:
            batch.release()
        if not inputs.records and not inputs.results:
            await asyncio.sleep(0)  # a due that stays due must not starve the loop

    def _fit(self, records: int, seconds: float) -> None:
        """Halves what the next turns may take after a decision that took too long, doubles it again while there is time."""
        wanted = self._stage.turn_ms / 1000
        if seconds > wanted and records > FEWEST_RECORDS:
            self._at_most = max(FEWEST_RECORDS, min(self._at_most, records) // 2)
        elif seconds < wanted / 4 and records >= self._at_most:
            self._at_most = min(2 * self._at_most, self._stage.turn_records)

    def _decide(self, inputs: Inputs, batches: list[Batch], now: int) -> Decision | None:
        """The stage's decision; None when it raised: nothing of it is left then, and its inputs come again in smaller turns."""
        try:
            return self._stage.decide(inputs, self._state, now)
        except StoreFailed:
            raise  # no record is to blame for a disk
        except Exception as error:  # noqa: BLE001  # a bug on some record: find the record, keep the rest
            raised = error
        self._forget()
        self._results[:0] = inputs.results
        if self._isolation.at_most is None:
            log.warning(
                "decision raised", stage=self._stage.name, partition=self.number, records=len(inputs.records),
                cause=raised_where(raised),
            )  # fmt: skip
        # a record alone is to blame only if what came with it does not raise without it
        if len(inputs.records) == 1 and (cause := self._raised_by(inputs._replace(records=[]), now)) is not None:
            inputs, raised = inputs._replace(records=[]), cause
        if self._isolation.raised(inputs.records, raised):
            self._condemned += batches
        else:
            self._batches.extendleft(reversed(batches))
        return None

    def _raised_by(self, inputs: Inputs, now: int) -> Exception | None:
        try:
            self._stage.decide(inputs, self._state, now)
        except StoreFailed:
            raise
        except Exception as error:  # noqa: BLE001  # that it raises is the answer
            return error
        else:
            return None
        finally:
            self._forget()

    def _forget(self) -> None:
        for table in self.tables.values():
            table.rollback()
        self._state = self._stage.open(self.number, self.tables)

    async def _commit(self, decision: Decision, offsets: Mapping[tuple[str, int], int], now: int) -> None:
        rows = {name: table.changes() for name, table in self.tables.items()}
        letters: list[Output] = [dead_letter(self._stage.name, refusal, now) for refusal in decision.refusals]
        ends: Mapping[str, int] = {}
        if offsets or decision.outputs or letters or any(rows.values()):
            self.transactions.produce(decision.outputs)
            self.transactions.produce(letters)
            for name, changes in rows.items():
                self.transactions.produce_rows(self._changelogs[name], self.number, changes)
            committing = asyncio.get_running_loop().run_in_executor(self._executor, self.transactions.commit, offsets)
            ends = await in_time(f"{self.transactions.id}: commit", committing)
            self._transaction_ended = time.monotonic()
        for name, table in self.tables.items():
            table.settle(
                ends.get(self._changelogs[name])
            )  # only now: nothing may reach a disk before its transaction has committed

    def _unheard(self, refusals: list[Refusal], batches: list[Batch]) -> list[Refusal]:
        """Without the refusals of records that a sink reads again: they are in dead-letters since the group passed them."""
        if not refusals:
            return refusals
        again = {
            (r.topic, r.partition, r.offset)
            for batch in batches
            for r in batch.records
            if r.offset < self._committed.get((r.topic, r.partition), 0)
        }
        return [r for r in refusals if (r.record.topic, r.record.partition, r.record.offset) not in again]

    def _count(self, records: int, decision: Decision, seconds: float) -> None:
        self.turns += 1
        self.progressed_at = time.monotonic()
        stage = self._stage.name
        metrics.TURNS.labels(stage).inc()
        metrics.TURN_SECONDS.labels(stage).observe(seconds)
        metrics.RECORDS.labels(stage).inc(records)
        metrics.OUTPUTS.labels(stage).inc(len(decision.outputs))
        for refusal in decision.refusals:
            metrics.DEAD_LETTERS.labels(stage, refusal.cause).inc()
            log.warning(
                "refused", stage=stage, cause=refusal.cause, detail=refusal.detail, topic=refusal.record.topic,
                partition=refusal.record.partition, offset=refusal.record.offset,
            )  # fmt: skip
        for name, times in decision.counts.items():
            metrics.EVENTS.labels(stage, name).inc(times)

    def _start(self, call: Call) -> None:
        task = asyncio.create_task(self._perform(call))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _perform(self, call: Call) -> None:
        try:
            value: Any = await self._stage.perform(call)
        except Exception as error:  # noqa: BLE001  # `perform` promises not to raise; a result that cannot be known ends the worker
            self._fail(f"partition {self.number}: call {call.key} raised {type(error).__name__}: {error}")
            return
        self._results.append(Result(call, value))
        self._wake.set()
