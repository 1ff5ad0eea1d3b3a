"""Group commit: the waiting writes of a worker's partitions become one transaction in one database.

In: one write per partition; the partition awaits its result. Out: one call of `write` for all waiting writes, in order of arrival.
Guaranteed: at most one call runs at a time. If a group fails, each of its writes is repeated alone, so that only the faulty one
fails. While the database is unavailable, the same group is retried; later writes form the next group. A group holds at most `most_bytes`,
or one larger write. A partition has one write at a time, so memory is bounded by the turns of the partitions.

A partition whose write is done decides on its next records, and nothing else runs meanwhile. So when another group waits, that group is
sent first: then the database works on it while the partition decides.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

import structlog

from pipelines.sink_retry import until_available
from schemas.tracebacks import described_error

log = structlog.get_logger(__name__)
GATHER_SECONDS = 0.02  # turns that start together end a little apart
# Some thousand rows: more would save little, and would leave no other partition to decide while the database works.
MOST_BYTES = 1 << 20
HELD_SECONDS = 0.5  # that the end of a write is kept from its partition at most


class Sized(Protocol):
    """A write with the size of its records in bytes."""

    size: int


W = TypeVar("W", bound=Sized)


class GroupCommit(Generic[W]):
    """One per worker and database. All methods run on the worker's event loop; none blocks it.

    A partition that may wait asks `wait` first, which keeps groups `interval_ms` apart. A partition that does not wait (a full turn, a
    stop, records taken one by one) is written at once. A write in progress is never cancelled: at a rebalance the partition stops when
    its write is done, or the engine ends the worker.

    `write` gets the group, and a function that it calls, once or more often, as soon as everything is at the database, or never."""

    def __init__(
        self,
        write: Callable[[Sequence[W], Callable[[], None]], Awaitable[None]],
        *,
        database: str,
        interval_ms: int,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._write = write
        self._database = database
        self._interval = interval_ms / 1000
        self._most_bytes = most_bytes
        self._waiting: list[tuple[W, asyncio.Future[None]]] = []
        self._began: float | None = None  # when the latest group started
        self._task: asyncio.Task[None] | None = None

    def wait(self) -> float:
        """Seconds until the next group may start, 0.0 for now. All partitions get the same moment, so their turns start together."""
        return 0.0 if self._began is None else max(0.0, self._began + self._interval - time.monotonic())

    async def put(self, work: W) -> None:
        """Returns when `work` is written, however long the database is unavailable; raises what `write` raised for this work alone."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"writes to {self._database}")
        await future

    async def _run(self) -> None:
        end_of_last = partial(_end, [], [])
        while self._waiting:
            if self._interval and not self.wait():
                end_of_last()
                await asyncio.sleep(GATHER_SECONDS)
            gathered = self._gathered()
            self._began = time.monotonic()
            outcomes = await self._outcomes([work for work, _ in gathered], end_of_last)
            end_of_last = partial(_end, [future for _, future in gathered], outcomes)
        end_of_last()
        self._task = None

    def _gathered(self) -> list[tuple[W, asyncio.Future[None]]]:
        """Takes waiting writes in order of arrival, up to `most_bytes`."""
        size = count = 0
        for work, _ in self._waiting:
            size += work.size
            if count and size > self._most_bytes:
                break
            count += 1
        gathered, self._waiting = self._waiting[:count], self._waiting[count:]
        return gathered

    async def _outcomes(self, works: Sequence[W], sent: Callable[[], None]) -> list[Exception | None]:
        """Writes the group; returns the error of each write, None for one that is done. Calls `sent` when everything is at the database,
        and in any case before it returns."""
        try:
            await until_available(lambda: self._attempt(works, sent), self._database)
        except Exception as error:  # noqa: BLE001  # raised in the partition that waits for it
            if len(works) == 1:
                return [error]
            log.warning(
                "group write failed, writing one by one",
                sink=self._database,
                writes=len(works),
                error=described_error(error),
            )
            return [outcome for work in works for outcome in await self._outcomes([work], sent)]
        return [None] * len(works)

    async def _attempt(self, works: Sequence[W], sent: Callable[[], None]) -> None:
        timer = asyncio.get_running_loop().call_later(HELD_SECONDS, sent)
        try:
            await self._write(works, sent)
        finally:
            timer.cancel()
            sent()


def _end(futures: Sequence["asyncio.Future[None]"], outcomes: Sequence[Exception | None]) -> None:
    """Ends the writes; calling it again does nothing."""
    for future, outcome in zip(futures, outcomes, strict=True):
        if future.done():
            continue  # or its caller was cancelled
        if outcome is None:
            future.set_result(None)
        else:
            future.set_exception(outcome)
