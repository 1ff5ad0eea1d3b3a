"""Where a worker's partitions begin to read, held against what their tables and Kafka say."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import structlog

from pipelines.engine.topic_identity import TopicIdentity, UnusableTopics
from schemas import metrics
from tables.table import Table

TopicPart = tuple[str, int]
log = structlog.get_logger(__name__)


def check_committed(
    tables: Mapping[int, Mapping[str, Table[Any]]],
    committed: Collection[TopicPart],
    group: str,
    topic_identity: TopicIdentity,
) -> None:
    """Raises UnusableTopics for a partition whose tables say that it has read, when the group says that it has not."""
    read = {number for _, number in committed}
    for number, held in tables.items():
        rows = {name: len(table) for name, table in held.items() if len(table)}
        if rows and number not in read:
            raise UnusableTopics(
                f"partition {number} has rows in its tables ({rows}), but the group {group} has no offset for it any more "
                "(Kafka forgets them offsets.retention.minutes after the last worker left): from the beginning everything would be "
                f"done again; say where to read on: {topic_identity.set_offsets('--to-datetime <when it stopped>')}"
            )


async def deleted(
    stage: str, positions: Mapping[TopicPart, int], topic_identity: TopicIdentity
) -> dict[TopicPart, tuple[int, int]]:
    """Offsets, first and end, that Kafka deleted before they were read. The stage goes on after them, since standing still would
    bring nothing back and lose more, but not in silence. Raises UnusableTopics for a position beyond the end."""
    first_left = await asyncio.to_thread(topic_identity.deleted, positions)
    found = {source: (positions[source], end) for source, end in first_left.items()}
    for (topic, number), (first, end) in found.items():
        metrics.LOST.labels(stage, topic).inc(end - first)
        log.error(
            "records gone before they were taken", stage=stage, topic=topic, partition=number, first=first, last=end - 1
        )
    return found
