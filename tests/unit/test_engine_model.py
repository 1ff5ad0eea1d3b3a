"""The turns of a worker's partitions against a model of Kafka: batches, calls, timers and poison, commits of several partitions at once
that fail before or after they took effect, rebalances, fences, zombies and crashes, in any order.

After every step what was committed is compared with the reference, which has no turns and no faults: it takes the records before the
group's offsets and computes the outputs and the tables. A worker that waits has tables equal to their changelog, and a store
on disk is never ahead of its changelog.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from pipelines.engine.batch_queue import Batch
from pipelines.engine.calls import Budget
from pipelines.engine.connection_state import ConnectionState
from pipelines.engine.crash_loop import OneAtATime
from pipelines.engine.kafka_sizes import KafkaSizes
from pipelines.engine.membership import Member
from pipelines.engine.stage import Call, Record
from pipelines.engine.transactions import CommitFailed, Unreachable
from pipelines.engine.turns import Partition
from pipelines.engine.writer import REST_SECONDS, Writer
from schemas import codec
from schemas.records import DeadLetter
from tables.layout import Layout
from tables.stores.memory import MemoryTable
from tests.support.builders import NOW, examples
from tests.support.kafka_model import Ending, Entry, Kafka, ModelTransactions, Slow
from tests.support.toy_stage import TIMER_MS, State, Toy
from tests.support.turns_harness import no_mirrors

SOURCES = ("toy-in", "toy-more")
KEYS = (b"a", b"b", b"c")
KINDS = ("", "", "call:", "later:", "poison")
CHANGELOGS = {layout.name: f"toy-{layout.name}-changelog" for layout in Toy.tables}
NUMBERS = (0, 1)  # of the partitions
PLACES = st.tuples(st.sampled_from(SOURCES), st.sampled_from(NUMBERS))
Disk = dict[tuple[str, int], tuple[dict[bytes, bytes], int]]  # changelog -> rows and their position


def check_reference(kafka: Kafka, number: int) -> None:
    """Checks the outputs and tables of a partition, given only what was produced and the group's offsets."""
    taken = [
        (source, offset, entry)
        for source in SOURCES
        for offset, entry in enumerate(kafka.topics[source, number][: kafka.offset((source, number))])
    ]
    given = {entry.value: entry.key for _, _, entry in reversed(taken) if entry.value != b"poison"}
    numbers: dict[bytes, int] = {}
    emitted: dict[bytes, bytes] = {}
    latest: dict[tuple[bytes, bytes], bytes] = {}
    for key, value in kafka.topics["toy-out", number]:
        count, _, text = (value or b"").partition(b":")
        numbers[key] = numbers.get(key, 0) + 1
        assert int(count) == numbers[key], "a gap in the numbers"
        assert text not in emitted, "twice"
        emitted[text] = key
        row, _, place = text.rpartition(b"-")
        if not row.startswith(b"call:"):
            assert latest.get((key, row), b"") < place, "out of order"
            latest[key, row] = place
    waiting = kafka.replay((CHANGELOGS["open"], number))
    assert not set(emitted) & set(waiting), "done and still open"
    assert emitted.keys() | waiting.keys() == given.keys(), "lost, or never produced"
    assert all(given[value] == key for value, key in emitted.items())
    assert kafka.replay((CHANGELOGS["values"], number)).keys() == given.keys()
    assert kafka.replay((CHANGELOGS["counts"], number)) == {key: b'{"n":%d}' % n for key, n in numbers.items()}
    letters = [codec.decode(entry.value or b"", DeadLetter) for entry in kafka.topics["dead-letters", -1]]
    refused = sorted((each.source_topic, each.source_offset) for each in letters if each.source_partition == number)
    assert refused == [(source, offset) for source, offset, entry in taken if entry.value == b"poison"]


class OnDisk(MemoryTable[Any]):
    """A table with a store that keeps the contract: the rows of a turn and their position are written together when it has committed."""

    def __init__(self, layout: Layout[Any], number: int, disk: Disk, kafka: Kafka) -> None:
        super().__init__(layout)
        self._disk = disk
        self._kafka = kafka
        self._place = (CHANGELOGS[layout.name], number)
        rows, start = disk.get(self._place, ({}, 0))
        for key, value in rows.items():
            self.load(key, value)
        changelog = kafka.topics[self._place]
        for entry in changelog[start:]:
            self.load(*entry)
        self._write(len(changelog))

    def commit(self, position: int | None = None) -> None:
        super().commit(position)
        if position is not None:
            self._write(position)

    def encoded(self) -> dict[bytes, bytes]:
        return {key: self.layout.encode(row) for key, row in self.items()}

    def check(self) -> None:
        assert self.encoded() == self._kafka.replay(self._place), f"{self._place} differs from its changelog"

    def _write(self, position: int) -> None:
        rows = self.encoded()
        assert rows == self._kafka.replay(self._place, position), "the store has another history"
        self._disk[self._place] = (rows, position)


class ModelLoop(asyncio.SelectorEventLoop):
    """An event loop in the model's time: it never waits, and sleeping tasks wake when the model moves the time."""

    seconds = 0.0

    def time(self) -> float:
        return self.seconds


class CallsOnDemand(Toy):
    """The toy stage, with calls that end when the test ends them."""

    def __init__(self, kafka: Kafka) -> None:
        super().__init__("toy", ("in", "more"), turn_records=4)
        self.kafka = kafka
        self.calls: dict[str, asyncio.Future[None]] = {}

    async def answer(self, call: Call) -> None:
        assert call.key not in self.calls, "two calls of one intent at a time"
        intents = {entry.key for number in NUMBERS for entry in self.kafka.topics[CHANGELOGS["open"], number]}
        assert call.key.encode() in intents, "no intent"
        self.calls[call.key] = asyncio.get_running_loop().create_future()
        try:
            await self.calls[call.key]
        finally:
            del self.calls[call.key]


class Worker:
    """One process: a stage, its partitions, their writer, and its disk. `ended` is why it has ended. The partitions that it owns are
    given by `take_over`."""

    def __init__(self, model: "EngineModel", name: str, disk: Disk) -> None:
        self.name = name
        self.stage = CallsOnDemand(model.kafka)
        self.disk = disk
        self.slow = Slow()
        self.ended: str | None = None
        self.fenced: set[int] = set()
        self.owns = False
        self.starts = 0
        self.given = 0  # since the last start
        self.released = 0
        self.positions: dict[tuple[str, int], int] = {}
        self.transactions = ModelTransactions(model.kafka, name)
        self.writer = Writer(self.transactions, self.slow, ConnectionState())
        self.partitions: dict[int, Partition[State]] = {}
        self.tables: dict[int, dict[str, OnDisk]] = {}
        self._model = model

    def take_over(self) -> None:
        """As the engine does when the writer is open: drops what was fenced or belonged to another worker in between, restores what it does
        not have, seeks to the group's offsets, and starts."""
        kafka = self._model.kafka
        self.owns = True
        self.starts += 1
        self.given = self.released = 0
        for number in [n for n in self.partitions if n in self.fenced or not self._is_last(n)]:
            self.partitions.pop(number).abandon()
        self.fenced.clear()
        for number in NUMBERS:
            if number not in self.partitions:
                self.tables[number] = {each.name: OnDisk(each, number, self.disk, kafka) for each in Toy.tables}
                self.partitions[number] = self._partition(number)
            self.writer.note_held({source: kafka.held[source] for source in _sources(number) if source in kafka.held})
        for number, partition in self.partitions.items():
            committed = {source: kafka.offset(source) for source in _sources(number)}
            self.positions.update(committed)
            partition.start(committed=committed, caught_up=lambda: True)

    def deliver(self, source: tuple[str, int], entries: list[Entry]) -> None:
        start = self.positions[source]
        records = [Record(*source, start + n, NOW, key, value, ()) for n, (key, value) in enumerate(entries)]
        self.positions[source] += len(entries)
        self.given += 1
        start_number = self.starts

        def release() -> None:
            self.released += start_number == self.starts

        self.partitions[source[1]].submit(Batch(records, release))

    def is_waiting(self) -> bool:
        return self.owns and not (self.slow.waiting or self.ended or self.fenced)

    def _is_last(self, number: int) -> bool:
        return self.writer.is_last(_sources(number), self._model.kafka.held)

    def _partition(self, number: int) -> Partition[State]:
        return Partition(
            stage=self.stage,
            number=number,
            tables=self.tables[number],
            changelogs=CHANGELOGS,
            writer=self.writer,
            mirrors=no_mirrors(),
            budget=Budget(self.stage.name, self.stage.most_calls),
            one_at_a_time=OneAtATime(),
            sizes=KafkaSizes(lambda _: 1_000_000),
            poison_limit=0,  # this model gives far more poison than real data
            fail=self._end,
            fenced=self.fenced.add,
            now=lambda: self._model.now,
            drain_seconds=0.0,
        )

    def _end(self, reason: str) -> None:
        self.ended = self.ended or reason


async def _ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def _sources(number: int) -> list[tuple[str, int]]:
    return [(source, number) for source in SOURCES]


class EngineModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = ModelLoop()
        self.kafka = Kafka()
        self.now = NOW
        self.produced = 0
        self.workers = 0
        self.sound = True
        self.zombies: list[Worker] = []
        self.worker: Worker
        self.replace()

    def replace(self, name: str | None = None, disk: Disk | None = None) -> None:
        """A process in place of the former one, which has left or can do nothing any more: with its name and disk after a restart of the
        same worker, else with new ones."""
        self.workers += 1
        self.worker = Worker(self, name or f"worker-{self.workers}", {} if disk is None else disk)
        self.assign()

    def assign(self) -> None:
        """The group gives its partitions to the worker, in a new generation."""
        self.kafka.generation += 1
        self.continue_worker()

    def continue_worker(self) -> None:
        """The worker opens its writer and takes over the partitions that the group gives it."""
        worker = self.worker
        worker.transactions.away = False
        opening = self.loop.create_task(worker.writer.open(Member("toy", worker.name, self.kafka.generation)))
        self.do()
        while not opening.done():
            worker.slow.run_one()
            self.do()
        opening.result()
        self.do(worker.take_over)

    def do(self, act: Callable[[], None] = lambda: None) -> None:
        """Acts inside the event loop, lets everything continue that can, and checks what was committed."""

        async def acting() -> None:
            act()
            # turns of the loop, and rests between transactions: far more than any chain of callbacks takes
            for _ in range(60):
                await asyncio.sleep(0)
                self.loop.seconds += REST_SECONDS / 5

        sound, self.sound = self.sound, False
        self.loop.run_until_complete(acting())
        for number in NUMBERS:
            check_reference(self.kafka, number)
        assert self.worker.released <= self.worker.given, "a batch is released twice"
        if self.worker.is_waiting():
            for tables in self.worker.tables.values():
                for table in tables.values():
                    table.check()
        self.sound = sound

    def runs(self) -> bool:
        return self.worker.ended is None and not self.worker.fenced

    # --- the world --------------------------------------------------------------------------------------------------------

    @rule(given=st.lists(st.tuples(PLACES, st.sampled_from(KEYS), st.sampled_from(KINDS)), min_size=1))
    def somebody_produces(self, given: list[tuple[tuple[str, int], bytes, str]]) -> None:
        for place, key, kind in given:
            self.produced += 1
            value = kind if kind == "poison" else f"{kind}{place[0]}-{self.produced:06}"
            self.kafka.topics[place].append(Entry(key, value.encode()))

    @rule(data=st.data(), place=PLACES)
    def somebody_produces_again(self, data: st.DataObject, place: tuple[str, int]) -> None:
        if self.kafka.topics[place]:
            self.kafka.topics[place].append(data.draw(st.sampled_from(self.kafka.topics[place][-9:]), label="again"))

    @rule(milliseconds=st.sampled_from([1, TIMER_MS, 10 * TIMER_MS]))
    def time_passes(self, milliseconds: int) -> None:
        self.now += milliseconds
        self.loop.seconds += milliseconds / 1000
        self.do()

    @precondition(lambda self: self.worker.stage.calls)
    @rule(data=st.data())
    def a_call_ends(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.worker.stage.calls)), label="call")
        self.do(lambda: self.worker.stage.calls[key].set_result(None))

    # --- the engine -------------------------------------------------------------------------------------------------------

    @precondition(runs)
    @rule(batches=st.lists(st.tuples(PLACES, st.integers(1, 6)), min_size=1, max_size=4), together=st.booleans())
    def records_arrive(self, batches: list[tuple[tuple[str, int], int]], together: bool) -> None:
        def arrive() -> None:
            for place, size in batches:
                start = self.worker.positions[place]
                entries = self.kafka.topics[place][start : start + size]
                if entries:
                    self.worker.deliver(place, entries)
                if not together:
                    self.do()

        if together:
            self.do(arrive)
        else:
            arrive()

    @precondition(lambda self: self.worker.slow.waiting)
    @rule(ending=st.sampled_from([*[Ending.DONE] * 4, Ending.LOST, Ending.UNANSWERED]), away=st.booleans())
    def a_commit_ends(self, ending: Ending, away: bool) -> None:
        """Or a question about the outcome of one, if Kafka is available."""
        self.worker.transactions.ending = ending
        self.worker.transactions.away = away
        self.do(self.worker.slow.run_one)
        expected = ("3 times", "alone as well", "refused a record")
        assert self.worker.ended is None or any(reason in self.worker.ended for reason in expected)

    @precondition(lambda self: self.worker.slow.waiting and self.runs())
    @rule(number=st.sampled_from(NUMBERS))
    def kafka_refuses_what_one_partition_sends(self, number: int) -> None:
        """Its worker ends, and says which partition it was; what the others sent with it is committed."""
        transactions = self.worker.transactions
        transactions.refuses = number
        transactions.ending, transactions.away = Ending.DONE, False
        for _ in range(2 + len(NUMBERS)):
            if self.worker.slow.waiting and self.runs():
                self.do(self.worker.slow.run_one)
        assert self.worker.ended is None or self.worker.ended.startswith(f"partition {number}:")
        transactions.refuses = None

    @precondition(runs)
    @rule(turns=st.integers(1, 9), size=st.integers(1, 6))
    def all_goes_well(self, turns: int, size: int) -> None:
        """For some turns: records arrive, calls and commits end."""
        for _ in range(turns):
            self.records_arrive([((source, n), size) for n in NUMBERS for source in SOURCES], together=True)
            for call in list(self.worker.stage.calls.values())[:size]:
                self.do(partial(call.set_result, None))
            if self.worker.slow.waiting:
                self.a_commit_ends(Ending.DONE, away=False)
            if not self.runs():
                return

    @precondition(runs)
    @rule(data=st.data(), stays=st.sampled_from(["stays", "goes", "another had it"]))
    def the_group_rebalances(self, data: st.DataObject, stays: str) -> None:
        """The partitions are given up by a clean stop: to come back to the same tables, to go to another worker, or to come back after
        another one had them."""
        stopping = self.loop.create_task(self.stop(self.worker))
        self.do()
        while not stopping.done():
            ending = data.draw(
                st.sampled_from([Ending.DONE, Ending.DONE, Ending.LOST, Ending.UNANSWERED]), label="ending"
            )
            if self.worker.slow.waiting:
                self.a_commit_ends(ending, away=data.draw(st.booleans(), label="away"))
            else:
                self.time_passes(TIMER_MS)  # until it asks Kafka again, or gives up
        assert self.worker.given == self.worker.released or not self.runs(), "a batch is never released"
        if not self.runs():
            return
        former = self.worker
        kept, held = dict(former.partitions), dict(self.kafka.held)
        if stays != "stays":
            self.replace()
            for partition in kept.values() if stays == "goes" else ():
                partition.abandon()
        if stays == "another had it":
            self.all_goes_well(data.draw(st.integers(0, 2), label="turns meanwhile"), 3)
            self.bury(self.worker)
            self.worker = former
        if stays != "goes":
            same = {n: all(held.get(s) == self.kafka.held.get(s) for s in _sources(n)) for n in NUMBERS}
            self.assign()
            assert same == {number: former.partitions[number] is kept[number] for number in NUMBERS}

    async def stop(self, worker: Worker) -> None:
        worker.owns = False
        await asyncio.gather(*(partition.stop() for partition in worker.partitions.values()))

    @rule(data=st.data(), same_machine=st.booleans())
    def the_worker_dies(self, data: st.DataObject, same_machine: bool) -> None:
        """With or without its open commit done by Kafka; the next process may have its disk and its name."""
        if data.draw(st.booleans(), label="committed") and self.worker.slow.waiting:
            _, commit = self.worker.slow.waiting[0]
            self.worker.transactions.ending = Ending.UNANSWERED
            self.worker.transactions.away = True
            with contextlib.suppress(CommitFailed, Unreachable):
                commit()
        self.bury(self.worker)
        if same_machine:
            self.replace(self.worker.name, self.worker.disk)
        else:
            self.replace()

    @rule()
    def another_takes_over(self) -> None:
        """The worker is frozen, or does not notice the rebalance: a zombie from now on."""
        if self.runs():
            self.zombies.append(self.worker)
        else:
            self.bury(self.worker)
        self.replace()

    @precondition(lambda self: self.zombies)
    @rule(data=st.data(), place=PLACES)
    def a_zombie_goes_on(self, data: st.DataObject, place: tuple[str, int]) -> None:
        """It decides on what it has, and Kafka refuses what it commits."""
        zombie = data.draw(st.sampled_from(self.zombies), label="zombie")
        before = {place: len(entries) for place, entries in self.kafka.topics.items()}
        entries = self.kafka.topics[place][zombie.positions[place] :][:3]
        if entries:
            self.do(lambda: zombie.deliver(place, entries))
        if zombie.slow.waiting:
            zombie.transactions.away = False
            # it may learn that its last commit was in time, and continue until the next one
            asks = zombie.slow.names[0] == "reopen"
            self.do(zombie.slow.run_one)
            if not zombie.slow.waiting and not (asks and not zombie.fenced):
                assert zombie.fenced
                self.zombies.remove(zombie)
                self.bury(zombie)
        assert {place: len(entries) for place, entries in self.kafka.topics.items()} == before

    @precondition(lambda self: self.zombies)
    @rule(data=st.data())
    def what_a_zombie_left_is_ended(self, data: st.DataObject) -> None:
        self.kafka.open(data.draw(st.sampled_from(self.zombies), label="zombie").name)

    @precondition(runs)
    @rule()
    def an_intruder_fences(self) -> None:
        self.kafka.open(self.worker.name)

    @precondition(lambda self: self.worker.fenced and self.worker.ended is None)
    @rule(again=st.booleans())
    def the_partitions_are_still_ours(self, again: bool) -> None:
        """The same worker takes them over again, in the same generation or in another one: stopped, restored, sought."""
        stopping = self.loop.create_task(self.stop(self.worker))
        self.do()
        while not stopping.done():
            if self.worker.slow.waiting:
                self.a_commit_ends(Ending.DONE, away=False)
            else:
                self.time_passes(TIMER_MS)
        if again:
            self.assign()
        else:
            self.continue_worker()

    def bury(self, worker: Worker) -> None:
        """Its process has ended: nothing of it continues."""
        worker.ended = worker.ended or "it crashed"
        worker.slow.waiting.clear()
        for partition in worker.partitions.values():
            partition.abandon()
            if partition._task is not None:
                partition._task.cancel()
        if worker.writer._task is not None:
            worker.writer._task.cancel()
        self.do()

    # --- the end ----------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if self.sound:
                self.drive_to_the_end()
        finally:
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(_ended(tasks))
            self.loop.close()

    def drive_to_the_end(self) -> None:
        """No more faults: everything that was produced comes out."""
        self.bury(self.worker)
        self.replace()
        places = [place for number in NUMBERS for place in _sources(number)]
        self.records_arrive([(place, len(self.kafka.topics[place])) for place in places], together=True)
        ends = {place: len(self.kafka.topics[place]) for place in places}
        for _ in range(5 * sum(ends.values()) + 10):  # more than there are turns
            self.time_passes(TIMER_MS)
            self.all_goes_well(1, 1000)
            waiting = any(self.kafka.replay((CHANGELOGS["open"], number)) for number in NUMBERS)
            found = {place: self.kafka.offset(place) for place in places}
            if not self.worker.slow.waiting and not waiting and found == ends:
                return
        raise AssertionError(f"the group remains at {found} instead of {ends}")


EngineModel.TestCase.settings = examples(300, steps=40)
TestEngineModel = EngineModel.TestCase
