"""Opening the producers of partitions that are newly ours: connected first, then fenced, all at once.

One alone waits half a second for the broker to abort what a dead owner left open. Nothing is opened for a partition that is no longer
ours: it would fence its owner.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from confluent_kafka import KafkaException

from pipelines.engine import transactions as limits
from pipelines.engine.footing import Footing
from pipelines.engine.group import Group
from pipelines.engine.line import Line
from pipelines.engine.link import Link, Unanswered
from pipelines.engine.stage import Source
from pipelines.engine.transactions import OutcomeUnknown, Transactions
from pipelines.engine.writer import Writer

AGAIN_SECONDS = 0.5
log = structlog.get_logger(__name__)


async def while_kafka_starts(
    step: Callable[[], Awaitable[object]], *, is_current: Callable[[], bool], seconds: float
) -> None:
    """Does a step of a take-over again while Kafka cannot serve it: a broker that has just started knows no leaders yet, or is still
    loading the group. Gives up, with Kafka's own error, after `seconds`; ends without a word when a newer rebalance has come."""
    end = time.monotonic() + seconds
    while True:
        try:
            await step()
        except KafkaException as error:
            if time.monotonic() > end:
                raise
            log.warning("Kafka does not serve a take-over yet", error=error.args[0].str())
            await asyncio.sleep(AGAIN_SECONDS)
            if not is_current():
                return
        else:
            return


class Opening:
    """Of one worker."""

    def __init__(
        self, *, kafka_url: str, app_id: str, group: Group, footing: Footing, sources: Sequence[Source], link: Link
    ) -> None:
        self._kafka_url = kafka_url
        self._app_id = app_id
        self._group = group
        self._footing = footing
        self._topics = [source.topic for source in sources]
        self._link = link
        self._fencing: asyncio.Future[Any] | None = None

    async def ended(self) -> None:
        """Waits until nothing is being opened."""
        if self._fencing is not None:
            await asyncio.wait([self._fencing])

    async def fence_all(self, numbers: Sequence[int], is_current: Callable[[], bool]) -> dict[int, Writer] | None:
        """What writes for each partition, its former owner fenced; None when a newer rebalance came."""
        while is_current():
            try:
                return await self._fence_all(numbers, is_current)
            except (OutcomeUnknown, Unanswered) as error:
                log.warning("producers could not be opened, tried again", partitions=list(numbers), error=str(error))
                await asyncio.sleep(AGAIN_SECONDS)
        return None

    async def _fence_all(self, numbers: Sequence[int], is_current: Callable[[], bool]) -> dict[int, Writer] | None:
        made = {number: self._transactions(number) for number in numbers}
        lines = {number: Line(f"commit-{number}") for number in numbers}
        await asyncio.gather(*(self._do(lines[number], made[number].connect) for number in numbers))
        if not is_current():
            return None  # never open a producer for a partition that is no longer ours: it would fence its owner
        writers = {number: Writer(made[number], lines[number], self._link) for number in numbers}
        self._fencing = asyncio.gather(*(self._do(lines[number], made[number].fence) for number in numbers))
        await self._fencing
        return writers if is_current() else None

    async def _do(self, line: Line, step: Callable[[], None]) -> None:
        seconds = limits.COMMIT_SECONDS + limits.OVERTIME_SECONDS
        await self._link.answer(line, seconds, step, whatever_is_lost=True)

    def _transactions(self, number: int) -> Transactions:
        own = [(topic, number) for topic in self._topics]
        return Transactions(
            kafka_url=self._kafka_url,
            app_id=self._app_id,
            partition=number,
            group=self._group.metadata,
            mark=self._footing.mark,
            topic=self._topics[0],
            held=lambda: self._group.held(own, limits.REACH_SECONDS),
        )
