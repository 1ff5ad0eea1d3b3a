"""Calls: started after the turn that asked for them has committed, their results kept for a later turn; bounded by the worker.

Enters: what decisions ask for. Leaves: results, and the room for more. The bound is one for all partitions of a worker. Room is taken
before a decision and what it did not ask for is given back after it, so that two never ask for the same; a call gives its own back when
it ends. While several want some, none gets more than its equal part, and none gets any before one that has less than half as many.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.engine.poison import raised_where
from pipelines.engine.stage import Call, Result, Room
from schemas import metrics

RESULTS = 1000  # of a turn
WAKE_SECONDS = 0.01  # after a call has ended, until those that wait for room look again: one look for many calls


class Budget:
    """Of one worker. `most` are the calls in flight of all its partitions. Lives in the event loop."""

    def __init__(self, stage: str, most: int) -> None:
        self._most = most
        self._held: Counter[Calls] = Counter()  # running, or reserved for a decision
        self._running: Counter[str] = Counter()  # by share, asked for or running
        self._short: dict[Calls, None] = {}  # those that have more to ask for, who was served longest ago first
        self._waking: asyncio.TimerHandle | None = None
        self._gauge = metrics.CALLS.labels(stage)

    def room(self, calls: "Calls") -> Room:
        """What a decision of that partition might ask for now."""
        return Room(self._free(calls), dict(self._running))

    def reserve(self, calls: "Calls") -> Room:
        """As `room`, and nobody else may have it until `keep`."""
        room = self.room(calls)
        self._take(calls, room.free)
        return room

    def keep(self, calls: "Calls", reserved: int, asked: Sequence[Call]) -> None:
        """Of what was reserved, what was asked for stays taken."""
        self._take(calls, len(asked) - reserved)
        for call in asked:
            self._running.update(call.shares)
        was_short = calls in self._short
        if not calls.wants(Room(self._most)):
            self._short.pop(calls, None)
        elif asked or not was_short:
            self._short.pop(calls, None)
            self._short[calls] = None
        if len(asked) < reserved:
            self._wake_soon()

    def end(self, calls: "Calls", call: Call) -> None:
        """A call that was asked for has ended, or is not made after all."""
        self._take(calls, -1)
        for share in call.shares:
            self._running[share] -= 1
            if self._running[share] <= 0:
                del self._running[share]
        self._wake_soon()

    def leave(self, calls: "Calls") -> None:
        """The partition asks for nothing more."""
        self._short.pop(calls, None)

    def _free(self, calls: "Calls") -> int:
        free = self._most - self._held.total()
        if free <= 0 or not self._short:
            return max(0, free)
        others = [each for each in self._short if each is not calls and each.wants(Room(free, self._running))]
        if not others:
            return free
        mine = self._held[calls]
        order = {each: place for place, each in enumerate(self._short)}
        if any((2 * self._held[each], order[each]) < (mine, order.get(calls, len(order))) for each in others):
            return 0  # far behind: it may be waiting for a share of ours, and is served before anything is taken
        part = -(-(free + mine + sum(self._held[each] for each in others)) // (len(others) + 1))
        return max(0, min(free, part - mine))

    def _take(self, calls: "Calls", number: int) -> None:
        self._held[calls] += number
        if self._held[calls] <= 0:
            del self._held[calls]
        self._gauge.set(self._held.total())

    def _wake_soon(self) -> None:
        if self._short and self._waking is None:
            self._waking = asyncio.get_running_loop().call_later(WAKE_SECONDS, self._wake)

    def _wake(self) -> None:
        self._waking = None
        for calls in list(self._short):
            calls.news()


class Calls:
    """Of one partition. `perform` does one; `news` is told that a result is there, or room; `wants` says whether the partition would ask
    for a call with that room; `fail` ends the worker when one raised, which none may; `now` is the time, Unix milliseconds."""

    def __init__(
        self,
        *,
        budget: Budget,
        perform: Callable[[Call], Any],
        news: Callable[[], None],
        wants: Callable[[Room], bool],
        fail: Callable[[str], None],
        now: Callable[[], int] = lambda: 0,
    ) -> None:
        self.news = news
        self.wants = wants
        self._budget = budget
        self._perform = perform
        self._fail = fail
        self._now = now
        self._reserved = 0
        self._asked: list[Call] = []  # by a decision that has not committed yet
        self._running: dict[asyncio.Task[None], Call] = {}
        self._results: list[Result] = []

    @property
    def has_results(self) -> bool:
        return bool(self._results)

    @property
    def wanted(self) -> bool:
        """Whether a turn should be taken for the calls that there is room for."""
        return self.wants(Room(1 << 30)) and self.wants(self._budget.room(self))

    def take_results(self) -> list[Result]:
        """Results for a turn, the oldest first; there may be more."""
        results, self._results = self._results[:RESULTS], self._results[RESULTS:]
        return results

    def put_back(self, results: Sequence[Result]) -> None:
        """They were not decided on after all, and come again."""
        self._results[:0] = results

    def reserve(self) -> Room:
        """The room for a decision, to be followed by `keep` without an await between."""
        room = self._budget.reserve(self)
        self._reserved = room.free
        return room

    def keep(self, asked: Sequence[Call]) -> None:
        """What the decision asked for: nothing when it was undone. What else was reserved is given back."""
        reserved, self._reserved = self._reserved, 0
        self._asked = list(asked)
        self._budget.keep(self, reserved, asked)

    def start(self) -> None:
        """Starts what was asked for; its turn has committed."""
        asked, self._asked = self._asked, []
        for call in asked:
            task = asyncio.create_task(self._do(call))
            self._running[task] = call
            task.add_done_callback(lambda task, call=call: self._ended(task, call))  # type: ignore[misc]  # mypy cannot type a default in a lambda

    def cancel(self) -> None:
        """Nobody waits for them any more, and those that were only asked for are not made."""
        asked, self._asked = self._asked, []
        for call in asked:
            self._budget.end(self, call)
        for task in self._running:
            task.cancel()
        self._budget.leave(self)

    async def end(self, seconds: float) -> None:
        """Waits until all have ended, or for so long. Nobody waits for a mirror: whoever has the partition next asks again."""
        self._budget.leave(self)
        for task, call in self._running.items():
            if call.end_of is not None:
                task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)

    def _ended(self, task: asyncio.Task[None], call: Call) -> None:
        self._running.pop(task, None)
        self._budget.end(self, call)

    async def _do(self, call: Call) -> None:
        try:
            value: Any = await self._perform(call)
        except Exception as error:  # noqa: BLE001  # `perform` promises not to raise; a result that cannot be known ends the worker
            self._fail(f"call {call.key} raised {raised_where(error)}")
            return
        self._results.append(Result(call, value, self._now()))
        self.news()
