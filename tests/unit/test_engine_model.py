"""The turns of a partition against a model of Kafka: batches, calls, timers and poison, commits that fail before or after they have
happened, rebalances, fences, zombies and crashes, in any order.

After every step what was committed is held to the reference, which knows no turns and no faults: it looks at the records before the
group's offsets, and says what the outputs and the tables must be. A worker that waits has tables equal to their changelog, and a store
on disk never knows more than its changelog does.
"""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from pipelines.engine.brake import Alone
from pipelines.engine.calls import Budget
from pipelines.engine.intake import Batch
from pipelines.engine.link import Link
from pipelines.engine.sizes import Sizes
from pipelines.engine.stage import Call, Record
from pipelines.engine.transactions import CommitFailed, Unreachable
from pipelines.engine.turns import REST_SECONDS, Partition
from pipelines.engine.writer import Writer
from schemas import codec
from schemas.records import DeadLetter
from tables.layout import Layout
from tables.partition import TablePartition
from tests.builders import NOW, examples
from tests.toy_stage import TIMER_MS, State, Toy
from tests.unit.kafka_model import Ending, Entry, Kafka, ModelTransactions, Slow

SOURCES = ("toy-in", "toy-more")
KEYS = (b"a", b"b", b"c")
KINDS = ("", "", "call:", "later:", "poison")
CHANGELOGS = {layout.name: f"toy-{layout.name}-changelog" for layout in Toy.tables}
Disk = dict[str, tuple[dict[bytes, bytes], int]]  # table -> rows and the position they stand for


def check_reference(kafka: Kafka) -> None:
    """What outputs and tables must be, given only what was produced and where the group stands."""
    taken = [(s, n, entry) for s in SOURCES for n, entry in enumerate(kafka.topics[s][: kafka.offsets.get((s, 0), 0)])]
    given = {entry.value: entry.key for _, _, entry in reversed(taken) if entry.value != b"poison"}
    numbers: dict[bytes, int] = {}
    emitted: dict[bytes, bytes] = {}
    latest: dict[tuple[bytes, bytes], bytes] = {}
    for key, value in kafka.topics["toy-out"]:
        number, _, said = (value or b"").partition(b":")
        numbers[key] = numbers.get(key, 0) + 1
        assert int(number) == numbers[key], "a gap in the numbers"
        assert said not in emitted, "twice"
        emitted[said] = key
        row, _, place = said.rpartition(b"-")
        if not row.startswith(b"call:"):
            assert latest.get((key, row), b"") < place, "out of order"
            latest[key, row] = place
    waiting = kafka.replay(CHANGELOGS["open"])
    assert not set(emitted) & set(waiting), "done and not done"
    assert emitted.keys() | waiting.keys() == given.keys(), "lost, or out of nothing"
    assert all(given[value] == key for value, key in emitted.items())
    assert kafka.replay(CHANGELOGS["values"]).keys() == given.keys()
    assert kafka.replay(CHANGELOGS["counts"]) == {key: b'{"n":%d}' % n for key, n in numbers.items()}
    letters = [codec.decode(entry.value or b"", DeadLetter) for entry in kafka.topics["dead-letters"]]
    poisoned = [(source, number) for source, number, entry in taken if entry.value == b"poison"]
    assert sorted((letter.source_topic, letter.source_offset) for letter in letters) == poisoned


class OnDisk(TablePartition[Any]):
    """A table with a store as the contract wants it: the rows of a turn and their position, written together once it has committed."""

    def __init__(self, layout: Layout[Any], disk: Disk, kafka: Kafka) -> None:
        super().__init__(layout)
        self._disk = disk
        self._kafka = kafka
        rows, start = disk.get(layout.name, ({}, 0))
        for key, value in rows.items():
            self.load(key, value)
        changelog = kafka.topics[CHANGELOGS[layout.name]]
        for entry in changelog[start:]:
            self.load(*entry)
        self._write(len(changelog))

    def settle(self, position: int | None = None) -> None:
        super().settle(position)
        if position is not None:
            self._write(position)

    def encoded(self) -> dict[bytes, bytes]:
        return {key: self.layout.encode(row) for key, row in self.items()}

    def _write(self, position: int) -> None:
        rows = self.encoded()
        assert rows == self._kafka.replay(CHANGELOGS[self.layout.name], position), "the store knows another history"
        self._disk[self.layout.name] = (rows, position)


class ModelLoop(asyncio.SelectorEventLoop):
    """An event loop in the model's time: it never waits, and whoever sleeps in it wakes when the model says that time has passed."""

    seconds = 0.0

    def time(self) -> float:
        return self.seconds


class ToldToy(Toy):
    """Its calls end when they are told to."""

    def __init__(self, kafka: Kafka) -> None:
        super().__init__("toy", ("in", "more"), turn_records=4)
        self.kafka = kafka
        self.calls: dict[str, asyncio.Future[None]] = {}

    async def answer(self, call: Call) -> None:
        assert call.key not in self.calls, "two calls of one intent at a time"
        assert call.key.encode() in {entry.key for entry in self.kafka.topics[CHANGELOGS["open"]]}, "no intent"
        self.calls[call.key] = asyncio.get_running_loop().create_future()
        try:
            await self.calls[call.key]
        finally:
            del self.calls[call.key]


class Worker:
    """One process: a stage, a partition, and whatever it has on its disk. `ended` is why it is over."""

    def __init__(self, model: "EngineModel", disk: Disk, stage: ToldToy | None = None) -> None:
        self.stage = stage or ToldToy(model.kafka)
        self.disk = disk
        self.slow = Slow()
        self.ended: str | None = None
        self.fenced = False
        self.given = 0
        self.released = 0
        self.positions: dict[str, int] = {}
        self.transactions = ModelTransactions(model.kafka)
        self.tables = {layout.name: OnDisk(layout, disk, model.kafka) for layout in Toy.tables}
        self.partition: Partition[State] = Partition(
            stage=self.stage,
            number=0,
            tables=self.tables,
            changelogs=CHANGELOGS,
            writer=Writer(self.transactions, self.slow, Link()),
            budget=Budget(self.stage.name, self.stage.most_calls),
            alone=Alone(),
            sizes=Sizes(lambda _: 1_000_000),
            poison_limit=0,  # a model of every order of faults gives far more poison than data does
            fail=self._end,
            fenced=self._was_fenced,
            now=lambda: model.now,
            drain_seconds=0.0,
        )
        self.start(model.kafka)

    def start(self, kafka: Kafka) -> None:
        """Seeks to where the group stands, once the group knows who starts."""
        self.transactions.begin()
        self.positions = {source: kafka.offsets.get((source, 0), 0) for source in SOURCES}
        self.partition.start(committed=dict(kafka.offsets), caught_up=lambda: True)

    def deliver(self, source: str, entries: list[Entry]) -> None:
        start = self.positions[source]
        records = [Record(source, 0, start + n, NOW, key, value, ()) for n, (key, value) in enumerate(entries)]
        self.positions[source] += len(entries)
        self.given += 1
        self.partition.submit(Batch(records, self._release))

    def is_waiting(self) -> bool:
        return not (self.slow.waiting or self.ended or self.fenced)

    def _release(self) -> None:
        self.released += 1

    def _end(self, reason: str) -> None:
        self.ended = reason

    def _was_fenced(self, number: int) -> None:
        assert number == 0
        self.fenced = True


class EngineModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = ModelLoop()
        self.kafka = Kafka()
        self.now = NOW
        self.produced = 0
        self.sound = True
        self.zombies: list[Worker] = []
        self.worker: Worker
        self.do(lambda: self.take_over({}))

    def take_over(self, disk: Disk, stage: ToldToy | None = None) -> None:
        self.worker = Worker(self, disk, stage)

    def do(self, act: Callable[[], None] = lambda: None) -> None:
        """Acts inside the event loop, lets everything that can go on do so, and looks at what was committed."""

        async def acting() -> None:
            act()
            for _ in range(
                60
            ):  # turns of the loop, and rests between transactions: far more than any chain of our callbacks takes
                await asyncio.sleep(0)
                self.loop.seconds += REST_SECONDS / 5

        sound, self.sound = self.sound, False
        self.loop.run_until_complete(acting())
        check_reference(self.kafka)
        assert self.worker.released <= self.worker.given, "a batch is released twice"
        if self.worker.is_waiting():
            for name, table in self.worker.tables.items():
                assert table.encoded() == self.kafka.replay(CHANGELOGS[name]), f"{name} is not its changelog"
        self.sound = sound

    def runs(self) -> bool:
        return self.worker.ended is None and not self.worker.fenced

    # --- the world --------------------------------------------------------------------------------------------------------

    @rule(
        given=st.lists(st.tuples(st.sampled_from(SOURCES), st.sampled_from(KEYS), st.sampled_from(KINDS)), min_size=1)
    )
    def somebody_produces(self, given: list[tuple[str, bytes, str]]) -> None:
        for source, key, kind in given:
            self.produced += 1
            value = kind if kind == "poison" else f"{kind}{source}-{self.produced:06}"
            self.kafka.topics[source].append(Entry(key, value.encode()))

    @rule(data=st.data(), source=st.sampled_from(SOURCES))
    def somebody_produces_again(self, data: st.DataObject, source: str) -> None:
        if self.kafka.topics[source]:
            self.kafka.topics[source].append(data.draw(st.sampled_from(self.kafka.topics[source][-9:]), label="again"))

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
    @rule(batches=st.lists(st.tuples(st.sampled_from(SOURCES), st.integers(1, 6)), min_size=1, max_size=4))
    def records_arrive(self, batches: list[tuple[str, int]]) -> None:
        for source, size in batches:
            start = self.worker.positions[source]
            entries = self.kafka.topics[source][start : start + size]
            if entries:
                self.do(partial(self.worker.deliver, source, entries))

    @precondition(lambda self: self.worker.slow.waiting)
    @rule(ending=st.sampled_from([*[Ending.DONE] * 4, Ending.LOST, Ending.UNHEARD]), away=st.booleans())
    def a_commit_ends(self, ending: Ending, away: bool) -> None:
        """Or a look at what has become of one, should Kafka not be away."""
        self.worker.transactions.ending = ending
        self.worker.transactions.away = away
        self.do(self.worker.slow.run_one)
        assert self.worker.ended is None or "3 times" in self.worker.ended

    @precondition(runs)
    @rule(turns=st.integers(1, 9), size=st.integers(1, 6))
    def all_goes_well(self, turns: int, size: int) -> None:
        """For some turns: records arrive, calls and commits end."""
        for _ in range(turns):
            self.records_arrive([(source, size) for source in SOURCES])
            for call in list(self.worker.stage.calls.values())[:size]:
                self.do(partial(call.set_result, None))
            if self.worker.slow.waiting:
                self.a_commit_ends(Ending.DONE, away=False)
            if not self.runs():
                return

    @precondition(runs)
    @rule(data=st.data(), stays=st.booleans())
    def the_group_rebalances(self, data: st.DataObject, stays: bool) -> None:
        """The partition is given up in good order: to come back to the same tables, or to go to another worker."""
        stopping = self.loop.create_task(self.worker.partition.stop())
        self.do()
        while not stopping.done():
            ending = data.draw(st.sampled_from([Ending.DONE, Ending.DONE, Ending.LOST, Ending.UNHEARD]), label="ending")
            if self.worker.slow.waiting:
                self.a_commit_ends(ending, away=data.draw(st.booleans(), label="away"))
            else:
                self.time_passes(TIMER_MS)  # until it asks Kafka again, or gives up
        assert self.worker.given == self.worker.released or not self.runs(), "a batch is never released"
        if not self.runs():
            return
        if stays:
            self.do(lambda: self.worker.start(self.kafka))
        else:
            self.worker.partition.abandon()
            self.do(lambda: self.take_over({}))

    @rule(data=st.data(), same_machine=st.booleans())
    def the_worker_dies(self, data: st.DataObject, same_machine: bool) -> None:
        """With or without its open commit done by Kafka; the next one may find its disk."""
        if data.draw(st.booleans(), label="committed") and self.worker.slow.waiting:
            _, commit = self.worker.slow.waiting[0]
            self.worker.transactions.ending = Ending.UNHEARD
            self.worker.transactions.away = True
            with contextlib.suppress(CommitFailed, Unreachable):
                commit()
        self.bury(self.worker)
        self.do(lambda: self.take_over(self.worker.disk if same_machine else {}))

    @rule()
    def another_takes_over(self) -> None:
        """The worker is frozen, or does not hear of it: a zombie from now on."""
        if self.runs():
            self.zombies.append(self.worker)
        else:
            self.bury(self.worker)
        self.do(lambda: self.take_over({}))

    @precondition(lambda self: self.zombies)
    @rule(data=st.data(), source=st.sampled_from(SOURCES))
    def a_zombie_goes_on(self, data: st.DataObject, source: str) -> None:
        """It decides on what it has, and whatever it commits is refused."""
        zombie = data.draw(st.sampled_from(self.zombies), label="zombie")
        before = {topic: len(entries) for topic, entries in self.kafka.topics.items()}
        entries = self.kafka.topics[source][zombie.positions[source] :][:3]
        if entries:
            self.do(lambda: zombie.deliver(source, entries))
        if zombie.slow.waiting:
            zombie.transactions.away = False
            self.do(zombie.slow.run_one)
            assert zombie.fenced
            self.zombies.remove(zombie)
            self.bury(zombie)
        assert {topic: len(entries) for topic, entries in self.kafka.topics.items()} == before

    @precondition(runs)
    @rule()
    def an_intruder_fences(self) -> None:
        self.kafka.open()

    @precondition(lambda self: self.worker.fenced)
    @rule(same_disk=st.booleans())
    def the_partition_is_still_ours(self, same_disk: bool) -> None:
        """The same worker opens it again: stopped, restored, sought."""
        self.loop.run_until_complete(self.worker.partition.stop())
        self.worker.partition.abandon()
        self.do()
        self.do(lambda: self.take_over(self.worker.disk if same_disk else {}, self.worker.stage))

    def bury(self, worker: Worker) -> None:
        """Its process is gone: nothing of it goes on."""
        worker.ended = worker.ended or "it died"
        worker.slow.waiting.clear()
        worker.partition.abandon()
        if worker.partition._task is not None:
            worker.partition._task.cancel()
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
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self.loop.close()

    def drive_to_the_end(self) -> None:
        """No more faults: everything that was produced comes out."""
        self.bury(self.worker)
        self.do(lambda: self.take_over({}))
        self.records_arrive([(source, len(self.kafka.topics[source])) for source in SOURCES])
        ends = {(source, 0): len(self.kafka.topics[source]) for source in SOURCES if self.kafka.topics[source]}
        for _ in range(5 * sum(ends.values()) + 10):  # more than there are turns
            self.time_passes(TIMER_MS)
            self.all_goes_well(1, 1000)
            if (
                not self.worker.slow.waiting
                and not self.kafka.replay(CHANGELOGS["open"])
                and self.kafka.offsets == ends
            ):
                return
        raise AssertionError(f"the group stands at {self.kafka.offsets} instead of {ends}, for ever")


EngineModel.TestCase.settings = examples(300, steps=40)
TestEngineModel = EngineModel.TestCase
