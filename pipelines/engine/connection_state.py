"""Whether the connection to Kafka is lost, and bounded waits for answers of Kafka's client.

Enters: losses and recoveries, which the fetching consumer notices first. Leaves: for each step an answer, or Unanswered when there is none
in time or when the connection that it used is gone. Reason: librdkafka 2.16 may never answer after a broker restart
(confluentinc/librdkafka#5456, #5511).
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
GRACE_SECONDS = 1.0  # an answer may still be under way when the connection is lost, or the client has another one


class Unanswered(Exception):
    """Kafka's client did not answer: the outcome of the step is not known."""


class ConnectionState:
    """The connection of one worker. All methods are for its event loop. `losses` counts; a producer that was opened before the latest loss
    is replaced before it is used again."""

    def __init__(self) -> None:
        self.losses = 0
        self._answers = asyncio.Event()
        self._answers.set()
        self._waiting: set[asyncio.Future[Any]] = set()

    def lost(self) -> None:
        """Notes that the connection to a broker was lost. Steps that wait get Unanswered after GRACE_SECONDS."""
        self.losses += 1
        self._answers.clear()
        asyncio.get_running_loop().call_later(GRACE_SECONDS, _give_up, set(self._waiting), "the connection was lost")

    def found(self) -> None:
        """Notes that Kafka answers again."""
        self._answers.set()

    async def until_found(self, seconds: float) -> None:
        """Waits while Kafka is known to be unavailable, `seconds` at most, so that no new clients try to connect meanwhile."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._answers.wait(), seconds)

    async def answer(
        self,
        executor: Executor,
        seconds: float,
        step: Callable[..., T],
        *arguments: Any,
        whatever_is_lost: bool = False,
    ) -> T:
        """Runs `step` in the executor and returns its result, or raises its error. Raises Unanswered after `seconds`, or soon after a loss
        of the connection unless `whatever_is_lost`; the step may still be running then."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        executor.submit(step, *arguments).add_done_callback(partial(_hand_over, loop, future))
        late = loop.call_later(seconds, _give_up, (future,), f"no answer from Kafka's client in {seconds:.0f} s")
        if not whatever_is_lost:
            self._waiting.add(future)
        try:
            return await future
        finally:
            late.cancel()
            self._waiting.discard(future)
            del future  # as in SerialExecutor: the error refers to this frame


def _hand_over(loop: asyncio.AbstractEventLoop, future: "asyncio.Future[T]", asked: "Future[T]") -> None:
    loop.call_soon_threadsafe(_copy, future, asked)


def _copy(future: "asyncio.Future[T]", asked: "Future[T]") -> None:
    if future.done():
        return
    error = asked.exception()
    if error is None:
        future.set_result(asked.result())
    else:
        future.set_exception(error)


def _give_up(waiting: "set[asyncio.Future[Any]] | tuple[asyncio.Future[Any], ...]", why: str) -> None:
    for future in waiting:
        if not future.done():
            future.set_exception(Unanswered(why))
