"""Writes of a worker's partitions to one database, together: those that wait make one transaction.

In: the write of a partition, which waits until it is done. Out: one call of `write` for all that wait, in the order of their coming.
Guaranteed: one is under way at most. A group that fails is repeated one by one, so that a partition fails for itself alone. A database
that is away is waited for, by the same group; whoever comes meanwhile makes the next. A partition waits with one write at a time, and a
group holds no more than `most_bytes`, or one write that is larger: so memory is bounded by the turns of the partitions.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

import structlog

from pipelines.sink_retry import until_available
from schemas.tracebacks import described_error

log = structlog.get_logger(__name__)
GATHER_SECONDS = 0.02  # partitions that begin their turns together do not end them at the same moment
MOST_BYTES = 32 << 20


class Sized(Protocol):
    """A write that knows how large the records in it are, in bytes."""

    size: int


W = TypeVar("W", bound=Sized)


class GroupCommit(Generic[W]):
    """Of one worker and database; lives in its event loop. Groups keep `distance_ms`, as far as who may wait asks `wait`; who comes out
    of time (a full turn, a partition taken record by record) is written at once."""

    def __init__(
        self,
        write: Callable[[Sequence[W]], Awaitable[None]],
        *,
        database: str,
        distance_ms: int,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._write = write
        self._database = database
        self._distance = distance_ms / 1000
        self._most_bytes = most_bytes
        self._waiting: list[tuple[W, asyncio.Future[None]]] = []
        self._began: float | None = None  # the latest group
        self._task: asyncio.Task[None] | None = None

    def wait(self) -> float:
        """Seconds until the next group is to be made: who begins then has company, and has gathered meanwhile."""
        return 0.0 if self._began is None else max(0.0, self._began + self._distance - time.monotonic())

    async def put(self, work: W) -> None:
        """Returns when it is written; raises what `write` raised for it alone."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"writes to {self._database}")
        await future

    async def _run(self) -> None:
        while self._waiting:
            if self._distance and not self.wait():
                await asyncio.sleep(GATHER_SECONDS)
            gathered = self._gathered()
            self._began = time.monotonic()
            outcomes = await self._outcomes([work for work, _ in gathered])
            for (_, future), outcome in zip(gathered, outcomes, strict=True):
                if future.done():
                    continue  # nobody waits any more
                if outcome is None:
                    future.set_result(None)
                else:
                    future.set_exception(outcome)
        self._task = None

    def _gathered(self) -> list[tuple[W, asyncio.Future[None]]]:
        """Who waits, in the order of their coming, as far as their writes have room in one group."""
        size = count = 0
        for work, _ in self._waiting:
            size += work.size
            if count and size > self._most_bytes:
                break
            count += 1
        gathered, self._waiting = self._waiting[:count], self._waiting[count:]
        return gathered

    async def _outcomes(self, works: Sequence[W]) -> list[Exception | None]:
        """What becomes of each write; None for one that is done."""
        try:
            await until_available(lambda: self._write(works), self._database)
        except Exception as error:  # noqa: BLE001  # it belongs to whoever waits
            if len(works) == 1:
                return [error]
            log.warning(
                "written one by one, to find whose fault it is",
                sink=self._database,
                writes=len(works),
                error=described_error(error),
            )
            return [outcome for work in works for outcome in await self._outcomes([work])]
        return [None] * len(works)
