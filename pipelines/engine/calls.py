"""Calls: they start after the turn that asked for them has committed, and their results wait for a later turn.

Enters: the calls that decisions ask for. Leaves: results, and the room for more calls. One bound holds for all partitions of a worker. Room
is reserved before a decision, and what the decision did not use is given back after it, so that two decisions never use the same room; a
call gives its room back when it ends. Guaranteed: while several partitions want room, none gets more than an equal part, and none gets any
while another one that wants room has less than half as much.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.engine.poison import raised_where
from pipelines.engine.stage import Call, Result, Room
from schemas import metrics

RESULTS = 1000  # of a turn
WAKE_SECONDS = 0.01  # from the end of a call until partitions that wait for room look again: one look for many calls


class Budget:
    """The bound on the calls of one worker: at most `most` in flight, of all its partitions together. For the event loop; never blocks."""

    def __init__(self, stage: str, most: int) -> None:
        self._most = most
        self._held: Counter[Calls] = Counter()  # running, or reserved for a decision
        self._running: Counter[str] = Counter()  # by share; asked for or running
        self._short: dict[Calls, None] = {}  # those that want more room; the one served longest ago is first
        self._waking: asyncio.TimerHandle | None = None
        self._gauge = metrics.CALLS.labels(stage)

    def room(self, calls: "Calls") -> Room:
        """The room that a decision of this partition would have now."""
        return Room(self._free(calls), dict(self._running))

    def reserve(self, calls: "Calls") -> Room:
        """As `room`, and reserves it until `keep`."""
        room = self.room(calls)
        self._take(calls, room.free)
        return room

    def keep(self, calls: "Calls", reserved: int, asked: Sequence[Call]) -> None:
        """Keeps the room for the calls that were asked for, and gives the rest of what was reserved back."""
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
        """Gives back the room of a call that has ended, or that is not made after all."""
        self._take(calls, -1)
        for share in call.shares:
            self._running[share] -= 1
            if self._running[share] <= 0:
                del self._running[share]
        self._wake_soon()

    def leave(self, calls: "Calls") -> None:
        """Notes that the partition wants no more room."""
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
            return 0  # another one is far behind, and is served first
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
    """The calls of one partition; for the event loop. Each call is a task of it; nothing here blocks except `end`, which awaits.

    `perform` makes one call. `news` is called when there is a result, or room. `wants` says whether the partition would ask for a call with
    a room. `fail` ends the worker when a call raises, which none may. `now` is the time in Unix milliseconds.

    At a rebalance: `end` first; then `cancel` when the partition goes to another worker, else what still runs gives its result to the next
    start.
    """

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
        self._asked: list[Call] = []  # of a decision that has not committed yet
        self._running: dict[asyncio.Task[None], Call] = {}
        self._results: list[Result] = []

    @property
    def has_results(self) -> bool:
        return bool(self._results)

    @property
    def wanted(self) -> bool:
        """Whether a turn would ask for calls now, and there is room for them."""
        return self.wants(Room(1 << 30)) and self.wants(self._budget.room(self))

    def take_results(self) -> list[Result]:
        """Results for a turn, the oldest first, at most RESULTS; more may be left."""
        results, self._results = self._results[:RESULTS], self._results[RESULTS:]
        return results

    def put_back(self, results: Sequence[Result]) -> None:
        """Puts results that were taken and not decided on before all others."""
        self._results[:0] = results

    def reserve(self) -> Room:
        """Reserves the room for a decision; `keep` must follow without an await between."""
        room = self._budget.reserve(self)
        self._reserved = room.free
        return room

    def keep(self, asked: Sequence[Call]) -> None:
        """Notes the calls that the decision asked for, none when it was rolled back, and gives back the rest of the reserved room."""
        reserved, self._reserved = self._reserved, 0
        self._asked = list(asked)
        self._budget.keep(self, reserved, asked)

    def start(self) -> None:
        """Starts the calls that were noted, when their turn has committed."""
        asked, self._asked = self._asked, []
        for call in asked:
            task = asyncio.create_task(self._do(call))
            self._running[task] = call
            task.add_done_callback(lambda task, call=call: self._ended(task, call))  # type: ignore[misc]  # mypy cannot type a default in a lambda

    def cancel(self) -> None:
        """Cancels the calls that run, and drops those that have not started. Does not wait."""
        asked, self._asked = self._asked, []
        for call in asked:
            self._budget.end(self, call)
        for task in self._running:
            task.cancel()
        self._budget.leave(self)

    async def end(self, seconds: float) -> None:
        """Waits until all calls have ended, `seconds` at most. Calls that wait for a mirror are cancelled at once: the partition's next
        owner makes them again."""
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
        except Exception as error:  # noqa: BLE001  # `perform` must not raise: a call without a known result ends the worker
            self._fail(f"call {call.key} raised {raised_where(error)}")
            return
        self._results.append(Result(call, value, self._now()))
        self.news()
