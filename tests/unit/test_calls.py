"""The bound on calls of a worker: it is never exceeded, and no partition waits while another one gets more and more."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.calls import WAKE_SECONDS, Budget, Calls
from pipelines.engine.stage import Call, Room
from tests.support.builders import examples

SECONDS = 10.0


class Desk:
    """A partition that wants to make `wished` calls, all for one account. A turn asks for as many as there is room for."""

    def __init__(self, budget: Budget, account: str = "a", bound: int = 1 << 30) -> None:
        self.wished = 0
        self.made = 0
        self.news = asyncio.Event()
        self.running: list[asyncio.Future[None]] = []
        self._account = account
        self._bound = bound
        self.calls = Calls(
            budget=budget,
            perform=self._perform,
            news=self.news.set,
            wants=lambda room: self._may(room) > 0,
            fail=pytest.fail,
        )

    async def turn(self, *, commits: bool = True) -> int:
        """Returns how many calls it started."""
        asked = [
            Call(f"{self.made + i}", None, shares=(self._account,)) for i in range(self._may(self.calls.reserve()))
        ]
        self.wished -= len(asked)
        self.calls.keep(asked)
        if not commits:
            self.calls.cancel()  # the partition is lost, with all its calls
            self.running.clear()
            self.wished += len(asked)
            return 0
        self.made += len(asked)
        self.calls.start()
        await asyncio.sleep(0)
        return len(asked)

    async def end_one(self) -> None:
        if self.running:
            self.running.pop(0).set_result(None)
            for _ in range(3):  # the future, the task, its callback
                await asyncio.sleep(0)
            self.calls.take_results()

    def end(self) -> None:
        for future in self.running:
            future.set_result(None)

    def _may(self, room: Room) -> int:
        return max(0, min(self.wished, room.free, self._bound - room.running.get(self._account, 0)))

    async def _perform(self, _: Call) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.running.append(future)
        await future


def played(test: Callable[..., Any], *arguments: Any) -> None:
    asyncio.run(test(*arguments))


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["wish", "turn", "turn", "lost", "end"]), st.integers(0, 3), st.integers(1, 9)),
    max_size=60,
)


@examples(100)
@given(most=st.integers(1, 12), bound=st.integers(1, 12), actions=ACTIONS)
def test_never_more_than_allowed_and_nobody_is_left_out(
    most: int, bound: int, actions: list[tuple[str, int, int]]
) -> None:
    played(_never_more, most, bound, actions)


async def _never_more(most: int, bound: int, actions: list[tuple[str, int, int]]) -> None:
    budget = Budget("toy", most)
    desks = [Desk(budget, account, bound) for account in "aabc"]
    for action, number, times in actions:
        desk = desks[number]
        if action == "wish":
            desk.wished += times
        elif action == "end":
            await desk.end_one()
        else:
            await desk.turn(commits=action == "turn")
        check(desks, most, bound)
    # from here on the first in the list takes a turn whenever possible, and wants more and more
    for _ in range(3 * most * sum(desk.wished + 1 for desk in desks)):
        desks[0].wished += 1
        for desk in desks:
            await desk.end_one()
            await desks[0].turn()
            await desk.turn()
            check(desks, most, bound)
        if not any(desk.wished for desk in desks[1:]):
            break
    assert [desk.wished for desk in desks[1:]] == [0, 0, 0], "one partition never got a turn"
    for desk in desks:
        desk.end()


def check(desks: list[Desk], most: int, bound: int) -> None:
    assert sum(len(desk.running) for desk in desks) <= most
    assert sum(len(desk.running) for desk in desks[:2]) <= bound, "they share an account"


async def test_what_one_has_goes_to_others_in_equal_parts_as_its_calls_end() -> None:
    first, second, third = desks = three(500)
    first.wished = 10_000
    assert await first.turn() == 500
    second.wished, third.wished = 10_000, 100
    assert await second.turn() == await third.turn() == 0
    for _ in range(400):
        await first.end_one()
        for desk in desks:
            await desk.turn()
    assert (len(second.running), len(third.running)) == (200, 100), (
        "a partition that wants less than its part leaves the rest"
    )
    for desk in desks:
        desk.end()


async def test_a_partition_that_waits_for_room_is_woken_once_for_many_calls() -> None:
    first, second, _ = three(4)
    first.wished = 4
    await first.turn()
    second.wished = 1
    await second.turn()
    assert not second.calls.wanted
    for _ in range(3):
        await first.end_one()
    assert not second.news.is_set()
    await asyncio.wait_for(second.news.wait(), SECONDS)
    assert second.calls.wanted
    assert await second.turn() == 1
    second.news.clear()
    await first.end_one()
    await asyncio.sleep(2 * WAKE_SECONDS)
    assert not second.news.is_set(), "it wants nothing more"
    second.end()


async def test_what_a_lost_partition_asked_for_and_made_is_given_back() -> None:
    first, second, _ = three(4)
    first.wished, second.wished = 4, 4
    await first.turn()
    assert await second.turn() == 0
    first.calls.cancel()
    await asyncio.wait_for(second.news.wait(), SECONDS)
    assert await second.turn() == 4
    second.end()


def three(most: int) -> tuple[Desk, Desk, Desk]:
    make = partial(Desk, Budget("toy", most))
    return make(), make(), make()
