"""The turns of one partition: what is committed together, what a poison record costs, and what happens when anything goes wrong.

The stage is a toy whose records say what it shall do; the transactions are a journal instead of Kafka. The engine on real Kafka is
tested in tests/integration/test_engine.py.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from pipelines.engine.dead_letters import dead_letter
from pipelines.engine.stage import Call, Decision, Inputs, Output, Record, Refusal, Source, Stage, Tables
from pipelines.engine.transactions import CommitFailed, Transactions
from pipelines.engine.turns import POISON_LIMIT, Batch, Partition
from schemas import codec
from schemas.causes import DESCRIPTIONS
from schemas.records import DeadLetter, Header
from tables.layout import Layout
from tables.partition import TablePartition
from tables.sequences import SEQUENCES
from tables.sequences import Sequence as Row
from tables.table import Table
from tests.builders import NOW, decoded, raw

SOON = 5.0  # seconds a test waits at most for what must happen
CHANGELOG = "toy-sequences-changelog"


# --- the toy ------------------------------------------------------------------------------------------------------------


@dataclass
class ToyState:
    rows: Table[Row]
    opened: int  # which opening of the partition made this state


class Toy(Stage[ToyState]):
    """Counts records by their key and gives each an output. A value says more: boom, both, refuse, call, calls."""

    name = "toy"
    tables: ClassVar[tuple[Layout[Any], ...]] = (SEQUENCES,)

    def __init__(self, *sources: Source) -> None:
        self.sources = sources or (Source("a"), Source("b"))
        self.held: set[str] = set()
        self.due: int | None = None
        self.broken = False
        self.opened = 0
        self.turns: list[list[str]] = []
        self.performed: list[str] = []
        self.performed_before: list[int] = []  # calls begun when a decision was made
        self.settled = 0
        self.answer = asyncio.Event()
        self.kept: list[Refusal] = []
        self.offsets: dict[tuple[str, int], int] = {}

    def open(self, partition: int, tables: Tables) -> ToyState:  # noqa: ARG002  # a partition's number means nothing here
        self.opened += 1
        return ToyState(tables["sequences"], self.opened)

    def next_due(self, state: ToyState) -> int | None:  # noqa: ARG002  # the test says
        return self.due

    def takes(self, topic: str, state: ToyState) -> bool:  # noqa: ARG002  # the test says
        return topic not in self.held

    def decide(self, inputs: Inputs, state: ToyState, now: int) -> Decision:
        if self.broken:
            raise RuntimeError("broken")
        decision = Decision(refusals=list(self.kept), offsets=dict(self.offsets))
        self.due = None if self.due is not None and self.due <= now else self.due
        self.turns.append([(each.value or b"").decode() for each in inputs.records])
        self.performed_before.append(len(self.performed))
        for each in inputs.records:
            self.take(each, state, decision)
        for result in inputs.results:
            decision.outputs.append(Output("out", result.call.key.encode(), result.value, 0))
            if result.call.request == "calls" and not inputs.closing:
                decision.calls.append(Call(f"{result.call.key}'", "calls"))
        if {b"both", b"BOTH"} <= {each.value for each in inputs.records}:
            raise RuntimeError("only together")
        return decision

    def take(self, each: Record, state: ToyState, decision: Decision) -> None:
        key = each.key or b""
        before = state.rows.get(key)
        state.rows.put(key, Row(1 if before is None else before.seq + 1))
        if each.value == b"boom":
            raise ValueError("boom, after the row was changed")
        if each.value == b"refuse":
            decision.refusals.append(Refusal(each, "not_avro", "as asked"))
            return
        decision.outputs.append(Output("out", key, each.value or b"", 0))
        if each.value and each.value.startswith(b"call"):
            decision.calls.append(Call(key.decode(), each.value.decode()))

    async def perform(self, call: Call) -> Any:
        self.performed.append(call.key)
        await self.answer.wait()
        if call.request == "call, and fail":
            raise RuntimeError("a stage must not")
        return b"answered"

    async def settle(self, decision: Decision) -> None:  # noqa: ARG002  # only counted
        self.settled += 1


@dataclass
class Committed:
    """One transaction."""

    outputs: list[Output] = field(default_factory=list)
    rows: list[tuple[str, int, bytes, bytes | None]] = field(default_factory=list)
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)


class Journal(Transactions):
    """Transactions that are written down instead of being sent to Kafka."""

    def __init__(self) -> None:
        self.id = "toy-0"
        self.committed: list[Committed] = []
        self.failure: Exception | None = None
        self.gate = threading.Event()  # a commit waits for it, in its thread
        self.gate.set()
        self.begun = 0
        self._now = Committed()

    def produce(self, outputs: Sequence[Output]) -> None:
        self._now.outputs += outputs

    def produce_rows(self, topic: str, partition: int, rows: Sequence[tuple[bytes, bytes | None]]) -> None:
        self._now.rows += [(topic, partition, key, value) for key, value in rows]

    def commit(self, offsets: Mapping[tuple[str, int], int]) -> Mapping[str, int]:
        self.begun += 1
        self.gate.wait(SOON)
        if self.failure is not None:
            raise self.failure
        self._now.offsets = dict(offsets)
        self.committed.append(self._now)
        self._now = Committed()
        return {}

    def outputs(self) -> list[str]:
        """Values produced to `out`, of all transactions, in order."""
        return [(each.value or b"").decode() for one in self.committed for each in one.outputs if each.topic == "out"]

    def letters(self) -> list[DeadLetter]:
        return [each for one in self.committed for each in decoded(one.outputs, "dead-letters", DeadLetter)]

    def position(self, topic: str) -> int | None:
        return next((one.offsets[topic, 0] for one in reversed(self.committed) if (topic, 0) in one.offsets), None)


class Bench:
    """One partition of the toy with everything around it."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.stage = Toy()
        self.journal = Journal()
        self.tables: dict[str, TablePartition[Any]] = {"sequences": TablePartition(SEQUENCES)}
        self.failures: list[str] = []
        self.fenced: list[int] = []
        self.released: list[str] = []
        self.now: Callable[[], int] = lambda: NOW
        self.executor = executor
        self.ends: dict[str, int] = {}
        self.partition: Partition[ToyState]

    def start(
        self,
        stage: Toy | None = None,
        *,
        committed: Mapping[tuple[str, int], int] | None = None,
        caught_up: Callable[[], bool] = lambda: True,
        drain_seconds: float = SOON,
    ) -> None:
        self.stage = stage or self.stage
        self.partition = Partition(
            stage=self.stage,
            number=0,
            tables=self.tables,
            changelogs={"sequences": CHANGELOG},
            transactions=self.journal,
            executor=self.executor,
            fail=self.failures.append,
            fenced=self.fenced.append,
            now=self.now,
            drain_seconds=drain_seconds,
        )
        self.partition.start(committed=committed or {}, caught_up=caught_up)

    def submit(self, topic: str, *values: str, key: str = "k") -> None:
        """A batch of one source, in offset order."""
        start = self.ends.get(topic, 0)
        records = [raw(topic, each.encode(), key=key.encode(), offset=start + i) for i, each in enumerate(values)]
        self.ends[topic] = start + len(values)
        self.partition.submit(Batch(records, lambda: self.released.append(values[0])))

    async def turned(self, *values: str) -> list[Committed]:
        """Submits a batch of topic a and waits until its turn is over."""
        self.submit("a", *values)
        await until(lambda: values[0] in self.released)
        return self.journal.committed


async def until(condition: Callable[[], bool]) -> None:
    """Waits until the condition holds; commits happen in threads, so there is nothing to await."""
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.001)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    executor = ThreadPoolExecutor(2)
    made = Bench(executor)
    yield made
    made.stage.answer.set()
    made.journal.gate.set()
    if hasattr(made, "partition"):
        made.partition.abandon()
        await made.partition.stop()
    executor.shutdown()


# --- a turn -------------------------------------------------------------------------------------------------------------


async def test_a_turn_is_one_transaction_of_outputs_rows_and_offsets(bench: Bench) -> None:
    bench.start()
    (turn,) = await bench.turned("x", "y")
    assert [each.value for each in turn.outputs] == [b"x", b"y"]
    assert turn.rows == [(CHANGELOG, 0, b"k", SEQUENCES.encode(Row(2)))]
    assert turn.offsets == {("a", 0): 2}
    assert bench.released == ["x"]
    assert bench.stage.settled == 1
    assert bench.tables["sequences"].changes() == []


async def test_what_waits_is_taken_together_up_to_the_bound(bench: Bench) -> None:
    bench.stage.turn_records = 3
    bench.journal.gate.clear()
    bench.start()
    bench.submit("a", "1")
    await until(lambda: bench.journal.begun == 1)
    for topic, values in (("a", ["2", "3"]), ("b", ["4"]), ("a", ["5", "6", "7", "8"]), ("b", ["9"])):
        bench.submit(topic, *values)
    bench.journal.gate.set()
    await until(lambda: len(bench.released) == 5)
    assert bench.stage.turns == [["1"], ["2", "3", "4"], ["5", "6", "7", "8"], ["9"]]
    assert bench.journal.committed[1].offsets == {("a", 0): 3, ("b", 0): 1}


async def test_turns_keep_their_distance_and_gather_company_but_a_lone_record_does_not_wait(bench: Bench) -> None:
    bench.stage.linger_ms = 200
    bench.start()
    began = time.monotonic()
    bench.submit("a", "1")
    await until(lambda: len(bench.released) == 1)
    assert time.monotonic() - began < 0.2
    bench.submit("a", "2")
    await asyncio.sleep(0)
    bench.submit("b", "3")
    await until(lambda: len(bench.released) == 3)
    assert bench.stage.turns == [["1"], ["2", "3"]]


async def test_a_due_time_makes_a_turn_and_one_without_effect_makes_no_transaction(bench: Bench) -> None:
    began = time.monotonic()
    bench.now = lambda: NOW + int((time.monotonic() - began) * 1000)
    bench.stage.due = NOW + 30
    bench.start()
    await until(lambda: bench.stage.turns == [[]])
    assert bench.now() >= NOW + 30
    assert bench.journal.committed == []
    assert await bench.turned("x"), "and the next one makes one"


async def test_an_offset_the_stage_names_counts_instead_but_never_moves_the_group_back(bench: Bench) -> None:
    bench.start(committed={("a", 0): 4})
    bench.ends["a"] = 4
    bench.stage.offsets = {("a", 0): 5}
    await bench.turned("x", "y", "z")
    assert bench.journal.position("a") == 5
    bench.stage.offsets = {("a", 0): 3}
    await bench.turned("again")
    assert bench.journal.position("a") == 4


# --- sources ------------------------------------------------------------------------------------------------------------


async def test_a_held_source_waits_in_its_order_and_the_others_go_on(bench: Bench) -> None:
    bench.stage.held = {"b"}
    bench.start()
    for topic, value in (("b", "b1"), ("a", "a1"), ("b", "b2"), ("a", "a2")):
        bench.submit(topic, value)
    await until(lambda: bench.released == ["a1", "a2"])
    bench.stage.held = set()
    bench.submit("b", "b3")
    await until(lambda: len(bench.released) == 5)
    assert [value for turn in bench.stage.turns for value in turn] == ["a1", "a2", "b1", "b2", "b3"]


async def test_a_held_source_goes_on_when_woken(bench: Bench) -> None:
    bench.stage.held = {"a"}
    bench.start()
    bench.submit("a", "a1")
    await asyncio.sleep(0)
    bench.stage.held = set()
    bench.partition.wake()
    await until(lambda: bench.released == ["a1"])


async def test_a_first_source_is_drained_before_anything_else_is_taken(bench: Bench) -> None:
    drained = threading.Event()
    bench.start(Toy(Source("members", first=True), Source("a")), caught_up=drained.is_set)
    bench.submit("a", "a1")
    bench.submit("members", "m1")
    await until(lambda: bench.released == ["m1"])
    bench.submit("members", "m2")
    await until(lambda: bench.released == ["m1", "m2"])
    drained.set()
    bench.partition.wake()
    await until(lambda: bench.released == ["m1", "m2", "a1"])
    drained.clear()
    bench.submit("a", "a2")
    await until(lambda: "a2" in bench.released)  # once drained, it waits no more


# --- poison -------------------------------------------------------------------------------------------------------------


async def test_a_poison_record_goes_alone_and_leaves_no_trace(bench: Bench) -> None:
    bench.start()
    await bench.turned("before")
    (_, turn) = await bench.turned("1", "boom", "2", "boom", "3")
    assert [each.value for each in turn.outputs if each.topic == "out"] == [b"1", b"2", b"3"]
    assert turn.rows == [(CHANGELOG, 0, b"k", SEQUENCES.encode(Row(4)))], "rows as if the bad ones had never come"
    assert turn.offsets == {("a", 0): 6}
    letters = bench.journal.letters()
    assert [(each.cause, each.source_offset, each.value) for each in letters] == [
        ("decision_failed", 2, b"boom"),
        ("decision_failed", 4, b"boom"),
    ]
    assert "decision_failed" in DESCRIPTIONS
    assert all("ValueError: boom, after the row was changed (in take, line " in each.detail for each in letters)
    assert bench.released == ["before", "1"]
    assert bench.failures == []


async def test_poison_costs_no_result_and_no_call(bench: Bench) -> None:
    bench.start()
    await bench.turned("call")
    bench.journal.gate.clear()
    bench.submit("a", "busy")
    await until(lambda: bench.journal.begun == 2)
    bench.stage.answer.set()
    bench.submit("a", "call", "boom", "2")
    await until(lambda: bool(bench.partition._results))  # it waits for the turn with the poison
    bench.journal.gate.set()
    await until(lambda: bench.journal.outputs().count("answered") == 2)
    assert bench.journal.outputs() == ["call", "busy", "call", "2", "answered", "answered"]
    assert bench.stage.performed == ["k", "k"], "each asked for once"
    assert len(bench.journal.letters()) == 1


async def test_as_many_poison_records_as_allowed(bench: Bench) -> None:
    bench.start()
    await bench.turned(*["boom"] * POISON_LIMIT, "good")
    assert len(bench.journal.letters()) == POISON_LIMIT
    assert bench.journal.outputs() == ["good"]


async def test_more_poison_than_allowed_is_a_bug_and_ends_the_worker(bench: Bench) -> None:
    bench.start()
    bench.submit("a", *["boom"] * (POISON_LIMIT + 1), "good")
    await until(lambda: bool(bench.failures))
    assert "a bug, not data" in bench.failures[0]
    assert (bench.journal.committed, bench.released) == ([], [])


async def test_records_that_fail_only_together_end_the_worker(bench: Bench) -> None:
    bench.start()
    bench.submit("a", "both", "BOTH")
    await until(lambda: bool(bench.failures))
    assert "only together" in bench.failures[0]
    assert (bench.journal.committed, bench.released) == ([], [])


@pytest.mark.parametrize("cause", ["a record", "the clock"])
async def test_a_stage_that_raises_whatever_comes_ends_the_worker(cause: str, bench: Bench) -> None:
    bench.stage.broken = True
    if cause == "the clock":
        bench.stage.due = NOW
    bench.start()
    if cause == "a record":
        bench.submit("a", "1")
    await until(lambda: bool(bench.failures))
    assert "broken" in bench.failures[0]
    assert (bench.journal.committed, bench.released) == ([], [])


# --- refusals -----------------------------------------------------------------------------------------------------------


async def test_a_refused_record_is_a_dead_letter_of_the_same_transaction(bench: Bench) -> None:
    bench.start()
    (turn,) = await bench.turned("1", "refuse", "2")
    assert [each.topic for each in turn.outputs] == ["out", "out", "dead-letters"]
    (letter,) = bench.journal.letters()
    assert (letter.cause, letter.detail, letter.stage, letter.refused_at) == ("not_avro", "as asked", "toy", NOW)


async def test_a_record_read_again_is_not_refused_again(bench: Bench) -> None:
    """A sink seeks to its own position, before the group's: its dead letters are there already."""
    bench.start(committed={("a", 0): 2})
    await bench.turned("refuse", "refuse", "refuse")
    assert [each.source_offset for each in bench.journal.letters()] == [2]


async def test_what_a_row_kept_from_before_a_restart_is_refused_all_the_same(bench: Bench) -> None:
    """A delivery given up or a receipt without a binding: its record was committed by an earlier owner of the partition."""
    long_ago = raw("a", b"kept in a row", offset=3)
    bench.stage.kept = [Refusal(long_ago, "attempts_exhausted", "given up")]
    bench.ends["a"] = 10
    bench.start(committed={("a", 0): 10})
    await bench.turned("x")
    assert [each.source_offset for each in bench.journal.letters()] == [3]


def test_a_dead_letter_carries_the_record_whole() -> None:
    headers = (("traceparent", b"00-1"), ("text", "olá"), ("none", None), ("traceparent", b"00-2"))
    record = raw("messages", b"\x00junk", key=b"c1", partition=3, offset=9, headers=headers)
    output = dead_letter("route", Refusal(record, "not_avro", "why", "t"), NOW)
    assert (output.topic, output.key, output.partition) == ("dead-letters", b"c1", None)
    letter = codec.decode(output.value, DeadLetter)
    assert (letter.key, letter.value) == (b"c1", b"\x00junk")
    assert letter.headers == (
        Header(key="traceparent", value=b"00-1"),
        Header(key="text", value="olá".encode()),
        Header(key="none", value=None),
        Header(key="traceparent", value=b"00-2"),
    )
    assert (letter.source_topic, letter.source_partition, letter.source_offset) == ("messages", 3, 9)
    assert (letter.source_timestamp, letter.refused_at, letter.tenant_id) == (record.timestamp, NOW, "t")
    assert (letter.cause, letter.detail, letter.stage) == ("not_avro", "why", "route")
    assert letter.dead_letter_id == "route:messages:3:9", "the same place gives the same id"


@pytest.mark.parametrize(("key", "value"), [(None, None), (b"", b"")], ids=["null", "empty"])
def test_null_and_empty_stay_apart_in_a_dead_letter(key: bytes | None, value: bytes | None) -> None:
    output = dead_letter("route", Refusal(raw("messages", value, key=key), "no_key", "why"), NOW)
    letter = codec.decode(output.value, DeadLetter)
    assert (letter.key, letter.value) == (key, value)
    assert output.key == b""


# --- calls --------------------------------------------------------------------------------------------------------------


async def test_a_call_starts_after_its_turn_was_committed_and_its_result_makes_a_turn(bench: Bench) -> None:
    bench.journal.gate.clear()
    bench.start()
    bench.submit("a", "call")
    await until(lambda: bench.journal.begun == 1)
    await asyncio.sleep(0.01)
    assert bench.stage.performed == []
    bench.journal.gate.set()
    await until(lambda: bench.stage.performed == ["k"])
    bench.stage.answer.set()
    await until(lambda: bench.journal.outputs() == ["call", "answered"])
    assert bench.journal.committed[1].offsets == {}


async def test_a_call_has_begun_when_the_next_turn_is_decided(bench: Bench) -> None:
    """Else a state made anew in that turn (poison) takes the call for one that was lost, and send makes it twice."""
    bench.stage.turn_records = 1
    bench.start()
    bench.submit("a", "call")
    bench.submit("a", "next")
    await until(lambda: len(bench.released) == 2)
    assert bench.stage.performed_before == [0, 1]


async def test_a_call_that_raises_ends_the_worker(bench: Bench) -> None:
    bench.stage.answer.set()
    bench.start()
    bench.submit("a", "call, and fail")
    await until(lambda: bool(bench.failures))
    assert "call k raised RuntimeError: a stage must not" in bench.failures[0]


# --- failure ------------------------------------------------------------------------------------------------------------


async def test_a_commit_that_fails_ends_the_worker_and_lets_nothing_out(bench: Bench) -> None:
    bench.journal.failure = CommitFailed("fenced")
    bench.start()
    bench.submit("a", "call")
    bench.submit("b", "later")
    await until(lambda: bool(bench.failures))
    assert "fenced" in bench.failures[0]
    assert (bench.released, bench.stage.performed, bench.stage.settled) == ([], [], 0)


# --- stopping -----------------------------------------------------------------------------------------------------------


async def test_stopping_commits_the_results_of_calls_and_starts_no_more(bench: Bench) -> None:
    bench.start()
    await bench.turned("calls")
    await until(lambda: bench.stage.performed == ["k"])
    stopping = asyncio.create_task(bench.partition.stop())
    await asyncio.sleep(0.01)
    assert not stopping.done(), "it waits for the call"
    bench.stage.answer.set()
    await stopping
    assert bench.journal.outputs() == ["calls", "answered"]
    assert bench.stage.performed == ["k"]


async def test_stopping_finishes_the_open_turn_and_gives_back_what_waits(bench: Bench) -> None:
    bench.journal.gate.clear()
    bench.start()
    bench.submit("a", "open")
    await until(lambda: bench.journal.begun == 1)
    bench.submit("a", "waits")
    stopping = asyncio.create_task(bench.partition.stop())
    await until(lambda: bench.released == ["waits"])
    bench.submit("a", "too late")
    assert bench.released == ["waits", "too late"]
    bench.journal.gate.set()
    await stopping
    assert bench.journal.outputs() == ["open"]
    assert bench.released == ["waits", "too late", "open"]


async def test_a_call_that_does_not_end_in_time_is_left_and_goes_on_if_the_partition_stays(bench: Bench) -> None:
    bench.start(drain_seconds=0.01)
    await bench.turned("call")
    await until(lambda: bench.stage.performed == ["k"])
    await bench.partition.stop()
    assert bench.journal.outputs() == ["call"]
    bench.partition.start(committed={("a", 0): 1}, caught_up=lambda: True)
    assert bench.partition.state.opened == bench.stage.opened, "with a state made anew"
    bench.stage.answer.set()
    await until(lambda: bench.journal.outputs() == ["call", "answered"])
    assert bench.stage.performed == ["k"]


async def test_the_calls_of_a_partition_that_went_away_are_cancelled(bench: Bench) -> None:
    bench.start(drain_seconds=0.01)
    await bench.turned("call")
    await until(lambda: bench.stage.performed == ["k"])
    await bench.partition.stop()
    bench.partition.abandon()
    bench.stage.answer.set()
    await asyncio.sleep(0.01)
    assert bench.journal.outputs() == ["call"]
    assert bench.failures == []


async def test_a_stopped_partition_starts_again_where_it_stood(bench: Bench) -> None:
    bench.start()
    await bench.turned("1")
    await bench.partition.stop()
    bench.partition.start(committed={("a", 0): 1}, caught_up=lambda: True)
    await bench.turned("2")
    assert bench.journal.outputs() == ["1", "2"]
    assert bench.tables["sequences"].get(b"k") == Row(2)
