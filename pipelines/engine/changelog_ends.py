"""Where changelogs end, for the views.

Enters: changelog partitions. Leaves: their ends, from Kafka. Guaranteed: one question at a time, in one thread: who asks meanwhile gets the
same answer. While Kafka is unavailable, reloading a page cannot use up the threads that the engine needs.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

TopicPart = tuple[str, int]


class ChangelogEnds:
    """`ends` asks Kafka and blocks; it may raise KafkaException. For the worker's event loop."""

    def __init__(self, ends: Callable[[list[TopicPart]], Mapping[TopicPart, int]]) -> None:
        self._ends = ends
        self._asking: asyncio.Task[Mapping[TopicPart, int]] | None = None

    async def of(self, partitions: Iterable[TopicPart]) -> Mapping[TopicPart, int]:
        """The ends; those of another caller's partitions if its question is under way. It may be given up. Raises KafkaException."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(asyncio.to_thread(self._ends, list(partitions)), name="changelog-ends")
            self._asking.add_done_callback(_retrieved)
        return await asyncio.shield(self._asking)


def _retrieved(task: "asyncio.Task[Mapping[TopicPart, int]]") -> None:
    """Takes the error of a question that everybody has given up, which asyncio would log."""
    if not task.cancelled():
        task.exception()
