"""The mirrored topics of one stage in one worker: the views of its decisions, and the answers to calls about their ends.

Enters: the topics that the stage declares. Leaves: a View of each, and the results of calls with `end_of`. Guaranteed: when such a result
is there, the view holds everything that was acknowledged before the call was made.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from confluent_kafka import KafkaException

from pipelines.engine.mirror import Mirror
from pipelines.engine.stage import Call, EndOf, Mirrored, Stage, View
from schemas.kafka_access import KafkaAccess

TopicPart = tuple[str, int]
log = structlog.get_logger(__name__)
AGAIN_SECONDS = 1.0  # between two questions to a Kafka that does not answer
LOG_SECONDS = 10.0  # between two log lines about the same wait


class Mirrors:
    """The mirrors of one worker; for its event loop, which they do not block.

    `ends(partitions)` returns where partitions end, open transactions included; it may block and may raise KafkaException, and is called in
    a thread. `fail(reason)` ends the worker when a mirror cannot follow its topic any more. `views` is topic -> View.
    """

    def __init__(
        self,
        mirrored: Iterable[Mirrored] = (),
        *,
        kafka: KafkaAccess,
        ends: Callable[[Iterable[TopicPart]], Mapping[TopicPart, int]],
        fail: Callable[[str], None],
    ) -> None:
        self._mirrors = {each.topic: Mirror(kafka=kafka, mirrored=each, fail=fail) for each in mirrored}
        self._ends = ends
        self.views: Mapping[str, View[Any]] = {topic: mirror.view for topic, mirror in self._mirrors.items()}

    async def start(self) -> None:
        """Returns when every mirror is complete. Raises TimeoutError."""
        await asyncio.gather(*(mirror.start() for mirror in self._mirrors.values()))

    async def stop(self) -> None:
        await asyncio.gather(*(mirror.stop() for mirror in self._mirrors.values()))

    async def perform(self, stage: Stage[Any], call: Call) -> Any:
        """Makes a call with `Stage.perform`, or answers it here when it asks for the end of a topic. Such an answer waits as long as Kafka
        is unavailable or a transaction on the topic is open; it may be cancelled."""
        return await (stage.perform(call) if call.end_of is None else self._passed(call.end_of))

    async def _passed(self, topic: str) -> EndOf:
        """Asks where the topic ends, and returns when its mirror has read so far."""
        mirror = self._mirrors[topic]
        position = dict(mirror.positions)
        end = await self._end(mirror)
        while True:
            try:
                await asyncio.wait_for(mirror.reach(end), LOG_SECONDS)
            except TimeoutError:
                log.warning(
                    "mirror is behind",
                    topic=topic,
                    position=dict(mirror.positions),
                    end=end,
                    reason="Kafka is unavailable, or a transaction on the topic is open",
                )
            else:
                return EndOf(topic, position, end)

    async def _end(self, mirror: Mirror) -> dict[int, int]:
        """Where the topic ends, partition -> offset; asks until Kafka answers."""
        while True:
            try:
                found = await asyncio.to_thread(self._ends, [(mirror.topic, number) for number in mirror.positions])
            except KafkaException as error:
                log.warning("end of the topic not known", topic=mirror.topic, error=error.args[0].str())
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                return {number: offset for (_, number), offset in found.items()}
