"""Turns of several partitions in one transaction: which are committed together, and the result of each after an error."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from pipelines.engine import writer as limits
from pipelines.engine.membership import Member
from pipelines.engine.stage import Output
from pipelines.engine.transactions import CommitFailed, Fenced, IdTaken, OutcomeUnknown, TurnContents
from tests.support.turns_harness import Bench, until

MEMBER = Member("toy", "a member", 2)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.writer.open(MEMBER)
    yield made
    made.journal.gate.set()
    made.writer.close()


def turn(number: int, value: bytes = b"x") -> TurnContents:
    return TurnContents([Output("out", b"k", value, number)], (), {("a", number): 1})


async def committed(bench: Bench, *turns: TurnContents) -> list[object]:
    """The results of turns that are committed at the same time."""
    return list(await asyncio.gather(*map(bench.writer.commit, turns), return_exceptions=True))


async def test_turns_handed_over_while_one_commits_go_together_in_the_next(bench: Bench) -> None:
    bench.journal.gate.clear()
    first = asyncio.create_task(committed(bench, turn(0)))
    await until(lambda: bench.journal.begun == 1)
    others = asyncio.create_task(committed(bench, turn(1), turn(2), turn(3)))
    await asyncio.sleep(0.02)
    assert bench.journal.begun == 1, "never two open"
    bench.journal.gate.set()
    assert await first == [{}]
    assert await others == [{}, {}, {}]
    assert bench.journal.together == [1, 3]
    assert [list(each.offsets) for each in bench.journal.committed] == [[("a", number)] for number in range(4)]


async def test_a_transaction_is_bounded_by_the_size_of_its_values(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_BYTES", 100)
    assert await committed(bench, *(turn(number, b"x" * 40) for number in range(5)), turn(5, b"x" * 400)) == [{}] * 6
    assert bench.journal.together == [2, 2, 1, 1], "a turn that is larger than the bound is committed alone"


async def test_what_kafka_refuses_of_one_partition_costs_the_others_nothing(bench: Bench) -> None:
    bench.journal.refused = b"too large"
    first, guilty, last = await committed(bench, turn(0), turn(1, b"too large"), turn(2))
    assert (first, last) == ({}, {})
    assert isinstance(guilty, CommitFailed)
    assert "refused a record" in str(guilty)
    assert [set(each.offsets) for each in bench.journal.committed] == [{("a", 0)}, {("a", 2)}]
    assert await committed(bench, turn(1)) == [{}], "and it continues"


@pytest.mark.parametrize("happened", [True, False])
async def test_a_transaction_of_several_whose_outcome_is_not_known_is_done_once(bench: Bench, happened: bool) -> None:
    bench.journal.failure = OutcomeUnknown("timed out")
    bench.journal.happened = happened
    bench.journal.heals = True
    assert await committed(bench, turn(0), turn(1)) == [{}, {}]
    [asked] = [sent for sent in bench.journal.reopened if sent is not None]
    assert [set(each.offsets) for each in asked.turns] == [{("a", 0)}, {("a", 1)}]
    assert bench.journal.together == ([] if happened else [2])


@pytest.mark.parametrize("fence", [Fenced("a newer generation"), IdTaken("another process")])
async def test_after_a_fence_nothing_is_committed_until_it_is_opened_again(bench: Bench, fence: Fenced) -> None:
    bench.journal.failure = fence
    for outcome in await committed(bench, turn(0), turn(1)):
        assert type(outcome) is type(fence)
        assert str(outcome) == str(fence)
    bench.journal.failure = None
    assert isinstance((await committed(bench, turn(2)))[0], Fenced)
    assert bench.journal.committed == []
    await bench.writer.open(MEMBER._replace(generation=3))
    assert bench.journal.member.generation == 3
    assert await committed(bench, turn(2)) == [{}]


async def test_only_a_transaction_of_several_turns_delays_the_next() -> None:
    bench = Bench(rest_seconds=0.5)
    await bench.writer.open(MEMBER)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await committed(bench, turn(0))
    await committed(bench, turn(1))  # the transaction before had one turn
    assert loop.time() - began < 0.5
    await committed(bench, turn(0), turn(1))
    began = loop.time()
    early = asyncio.create_task(committed(bench, turn(1)))
    await asyncio.sleep(0.05)
    late = asyncio.create_task(committed(bench, turn(2)))
    await asyncio.gather(early, late)
    assert loop.time() - began > 0.4
    assert bench.journal.together == [1, 1, 2, 2]
    bench.writer.close()
