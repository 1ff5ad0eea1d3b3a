"""Batches on their way through Faust's own loop: it passes all of them on, whatever offset it has read before."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from faust.types.tuples import TP

from pipelines.app import build
from pipelines.engine.faust.transport import BatchConsumer, BatchMessage
from schemas.settings import Settings
from tests.support.toy_stage import Toy


class ToldConsumer(BatchConsumer):
    """Its batches are given to it, by the offsets of their last records."""

    def __init__(self, *args: Any, offsets: list[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._offsets = offsets

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[Any, Any]]:  # noqa: ARG002, ASYNC109  # Faust's signature
        tp = TP("toy-in", 0)
        for offset in self._offsets:
            yield tp, BatchMessage(*tp, offset, 0.0, 0, (), None, [f"a record at {offset}"], None, 0, 0, tp)
        self._stopped.set()


async def passed_on(offsets: list[int]) -> tuple[list[int], dict[Any, Any]]:
    """Offsets of the batches that come out of Faust's loop, and the gaps that it records."""
    app = build(Toy("toy"), Settings(kafka_url="127.0.0.1:1"))
    app.topics._acking_topics.add("toy-in")  # as for an agent for which Faust acknowledges
    found: list[int] = []

    async def take(message: Any) -> None:
        found.append(message.offset)

    consumer = ToldConsumer(
        app.transport, callback=take, on_partitions_revoked=None, on_partitions_assigned=None, offsets=offsets
    )
    await consumer._drain_messages(SimpleNamespace(_stopped=asyncio.Event()))
    consumer._thread.loop.close()  # it was never started
    app.engine._group.close()
    return found, dict(consumer._gap)


async def test_batches_that_come_again_are_passed_on() -> None:
    """A turn was fenced while the next batch was on its way: the first one comes again and must not be dropped."""
    assert (await passed_on([499, 999, 499, 999, 1499]))[0] == [499, 999, 499, 999, 1499]


async def test_a_gap_of_a_hundred_million_costs_nothing() -> None:
    """Faust would make a list of its offsets, to commit them later."""
    assert await passed_on([1, 10**8]) == ([1, 10**8], {})
