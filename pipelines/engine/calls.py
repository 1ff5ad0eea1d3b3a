"""The calls of one partition: started after the turn that asked for them has committed, their results kept for a later turn."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.engine.stage import Call, Result

RESULTS = 1000  # of a turn


class Calls:
    """`perform` does one; `news` is told that a result is there; `fail` ends the worker when one raised, which none may."""

    def __init__(
        self, *, perform: Callable[[Call], Any], news: Callable[[], None], fail: Callable[[str], None]
    ) -> None:
        self._perform = perform
        self._news = news
        self._fail = fail
        self._running: dict[asyncio.Task[None], Call] = {}
        self._results: list[Result] = []

    @property
    def has_results(self) -> bool:
        return bool(self._results)

    def take_results(self) -> list[Result]:
        """Results for a turn, the oldest first; there may be more."""
        results, self._results = self._results[:RESULTS], self._results[RESULTS:]
        return results

    def put_back(self, results: Sequence[Result]) -> None:
        """They were not decided on after all, and come again."""
        self._results[:0] = results

    def start(self, call: Call) -> None:
        task = asyncio.create_task(self._do(call))
        self._running[task] = call
        task.add_done_callback(self._running.pop)

    def cancel(self) -> None:
        """Nobody waits for them any more."""
        for task in self._running:
            task.cancel()

    async def end(self, seconds: float) -> None:
        """Waits until all have ended, or for so long. Nobody waits for a mirror: whoever has the partition next asks again."""
        for task, call in self._running.items():
            if call.end_of is not None:
                task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)

    async def _do(self, call: Call) -> None:
        try:
            value: Any = await self._perform(call)
        except Exception as error:  # noqa: BLE001  # `perform` promises not to raise; a result that cannot be known ends the worker
            self._fail(f"call {call.key} raised {type(error).__name__}: {error}")
            return
        self._results.append(Result(call, value))
        self._news()
