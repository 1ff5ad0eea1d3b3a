"""Whether the connection to Kafka was lost, and what is waited for meanwhile.

In: losses and returns, told by the fetching consumer, the first to notice. Out: steps that end, each in time: an answer, or Unanswered
when none came although it was due, or when the connection it was asked over is gone. librdkafka 2.16 may never answer after a broker
restart (confluentinc/librdkafka#5456, #5511). Lives in the event loop.
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
    """Kafka's client did not answer: whether what was asked for has happened is not known."""


class ConnectionState:
    """One worker's. `losses` counts; a producer opened before the latest is opened anew before it is used."""

    def __init__(self) -> None:
        self.losses = 0
        self._answers = asyncio.Event()
        self._answers.set()
        self._waiting: set[asyncio.Future[Any]] = set()

    def lost(self) -> None:
        """The connection to a broker was lost. To be called in the event loop."""
        self.losses += 1
        self._answers.clear()
        asyncio.get_running_loop().call_later(GRACE_SECONDS, _give_up, set(self._waiting), "the connection was lost")

    def found(self) -> None:
        """Kafka answers again. To be called in the event loop."""
        self._answers.set()

    async def until_found(self, seconds: float) -> None:
        """Waits while Kafka is known to be away, or for so long: a client that is opened meanwhile would only knock."""
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
        """What `step` returns, done by the executor; raises Unanswered after `seconds`, or soon after a loss unless that is no matter."""
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
            del future  # as in Line: an error knows this frame


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
