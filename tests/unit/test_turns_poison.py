"""Poison records in the turns of a partition: each is refused alone, and too many of them end the worker."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from pipelines.engine.poison import LIMIT
from schemas.causes import DESCRIPTIONS
from schemas.records import DeadLetter
from tables.sequences import SEQUENCES
from tables.sequences import Sequence as Row
from tables.table import StoreFailed
from tests.support.builders import NOW, decoded
from tests.support.turns_harness import CHANGELOG, Bench, benched, until


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async for made in benched():
        yield made


async def test_a_poison_record_goes_alone_and_leaves_no_trace(bench: Bench) -> None:
    bench.start()
    await bench.turned("before")
    turns = await bench.turned("1", "boom", "2", "boom", "3")
    assert bench.journal.outputs() == ["before", "1", "2", "3"]
    assert turns[-1].rows == [(CHANGELOG, 0, b"k", SEQUENCES.encode(Row(4)))], "rows as without the bad records"
    for turn in turns:
        for letter in decoded(turn.outputs, "dead-letters", DeadLetter):
            assert turn.offsets["a", 0] > letter.source_offset, (
                "the letter and the offset after the record are in one transaction"
            )
    assert bench.journal.position("a") == 6
    letters = bench.journal.letters()
    assert [(each.cause, each.source_offset, each.value) for each in letters] == [
        ("decision_failed", 2, b"boom"),
        ("decision_failed", 4, b"boom"),
    ]
    assert "decision_failed" in DESCRIPTIONS
    assert all("ValueError (support/turns_harness.py:" in each.detail for each in letters)
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
    await until(lambda: bool(bench.partition._calls.has_results))  # it waits for the turn with the poison
    bench.journal.gate.set()
    await until(lambda: bench.journal.outputs().count("answered") == 2 and len(bench.released) == 3)
    assert [each for each in bench.journal.outputs() if each != "answered"] == ["call", "busy", "call", "2"]
    assert bench.stage.performed == ["k", "k"], "each asked for once"
    assert len(bench.journal.letters()) == 1


async def test_as_many_poison_records_as_allowed(bench: Bench) -> None:
    bench.start()
    turns = await bench.turned(*["boom"] * LIMIT, "good")
    assert len(bench.journal.letters()) == LIMIT
    assert bench.journal.outputs() == ["good"]
    assert len(turns) == 1, "a row of them stays uncommitted until it has ended"


async def test_more_poison_than_allowed_is_a_bug_and_ends_the_worker(bench: Bench) -> None:
    bench.start()
    bench.submit("a", *["boom"] * (LIMIT + 1), "good")
    await until(lambda: bool(bench.failures))
    assert "a bug in the code of stage toy, not data" in bench.failures[0]
    assert "a 0 at offset 20: ValueError (support/turns_harness.py:" in bench.failures[0]
    assert "\n" not in bench.failures[0]
    assert (bench.journal.committed, bench.released) == ([], [])


async def test_a_row_of_poison_counts_over_turns(bench: Bench) -> None:
    bench.start()
    for number in range(LIMIT):
        bench.submit("a", "boom")
        await until(lambda: bench.journal.position("a") == number + 1)  # noqa: B023  # awaited at once
    assert len(bench.journal.letters()) == LIMIT
    bench.submit("a", "boom")
    await until(lambda: bool(bench.failures))
    assert len(bench.journal.letters()) == LIMIT
    assert bench.journal.position("a") == LIMIT, "the one too many is not lost"


async def test_a_limit_of_0_never_stops_the_stage(bench: Bench) -> None:
    bench.start(poison_limit=0)
    await bench.turned(*["boom"] * 100, "good")
    assert (len(bench.journal.letters()), bench.journal.outputs()) == (100, ["good"])


async def test_poison_between_sources_keeps_the_order_of_each(bench: Bench) -> None:
    bench.journal.gate.clear()
    bench.start()
    bench.submit("a", "first")
    await until(lambda: bench.journal.begun == 1)
    bench.submit("a", "a1", "boom", "a2")
    bench.submit("b", "boom", "b1", "b2")
    bench.submit("a", "a3")
    bench.journal.gate.set()
    await until(lambda: len(bench.released) == 4)
    assert bench.journal.outputs() == ["first", "a1", "a2", "b1", "b2", "a3"]
    assert (bench.journal.position("a"), bench.journal.position("b")) == (5, 3)
    assert {(each.source_topic, each.source_offset) for each in bench.journal.letters()} == {("a", 2), ("b", 0)}


async def test_poison_that_was_not_committed_comes_again_after_a_stop(bench: Bench) -> None:
    bench.journal.gate.clear()
    bench.start()
    bench.submit("a", "first")
    await until(lambda: bench.journal.begun == 1)
    bench.submit("a", "boom", "good")
    bench.stage.held = {"a"}
    stopping = asyncio.create_task(bench.partition.stop())
    bench.journal.gate.set()
    await stopping
    assert bench.journal.position("a") == 1
    assert bench.journal.letters() == []


async def test_a_store_that_fails_is_no_poison(bench: Bench) -> None:
    bench.stage.raises = StoreFailed("table store x: the disk is full")
    bench.start()
    bench.submit("a", "1")
    await until(lambda: bool(bench.failures))
    assert bench.failures == ["partition 0: table store x: the disk is full"]
    assert (bench.journal.committed, bench.released) == ([], [])


async def test_records_that_fail_only_together_are_decided_apart(bench: Bench) -> None:
    bench.start()
    await bench.turned("both", "BOTH")
    assert bench.journal.outputs() == ["both", "BOTH"]
    assert (bench.journal.letters(), bench.failures) == ([], [])


@pytest.mark.parametrize("cause", ["a record", "the clock"])
async def test_a_stage_that_raises_whatever_comes_ends_the_worker(cause: str, bench: Bench) -> None:
    bench.stage.broken = True
    if cause == "the clock":
        bench.stage.due = NOW
    bench.start()
    if cause == "a record":
        bench.submit("a", *["1"] * (LIMIT + 1))
    await until(lambda: bool(bench.failures))
    assert (
        "it raises without any record, on its state, a timer or a call's result: RuntimeError (" in bench.failures[0]
    ), "no record is to blame"
    assert (bench.journal.committed, bench.released) == ([], [])
