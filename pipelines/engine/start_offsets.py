"""Checks the offsets from which a worker's partitions start to read against their tables and Kafka.

Enters: committed offsets and positions. Leaves: records that Kafka has deleted unread, or UnusableTopics, one line that says what to do.
"""

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
    """Raises UnusableTopics for a partition that has rows in its tables but no committed offset. No I/O."""
    read = {number for _, number in committed}
    for number, held in tables.items():
        rows = {name: len(table) for name, table in held.items() if len(table)}
        if rows and number not in read:
            raise UnusableTopics(
                f"partition {number} has rows in its tables ({rows}), but the group {group} no longer has an offset for it "
                "(Kafka deletes offsets offsets.retention.minutes after the last worker left); reading from the beginning would "
                f"process everything again; set where to continue: {topic_identity.set_offsets('--to-datetime <when it stopped>')}"
            )


async def deleted(
    stage: str, positions: Mapping[TopicPart, int], topic_identity: TopicIdentity
) -> dict[TopicPart, tuple[int, int]]:
    """Offsets, first and end, that Kafka deleted before they were read; each is logged and counted. The stage continues after them: to stop
    would bring nothing back and lose more. Asks Kafka in a thread. Raises UnusableTopics for a position beyond the end, and
    KafkaException."""
    first_left = await asyncio.to_thread(topic_identity.deleted, positions)
    found = {source: (positions[source], end) for source, end in first_left.items()}
    for (topic, number), (first, end) in found.items():
        metrics.LOST.labels(stage, topic).inc(end - first)
        log.error(
            "records deleted before they were read",
            stage=stage,
            topic=topic,
            partition=number,
            first=first,
            last=end - 1,
        )
    return found
