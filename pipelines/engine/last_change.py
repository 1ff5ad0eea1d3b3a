"""Finds the changelog record that a row was last written by, without a byte more in any row.

Enters: a changelog partition and the row's key there. Leaves: offset and time of the newest committed record with that key. It reads the
changelog backwards, in parts that grow, because a row that somebody looks at was usually changed a short time ago. Bounded: SECONDS, and
one search at a time. A row that was written before the part that could be read in that time is reported as not found, with its bound.
"""

import asyncio
import time
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from pipelines.engine import client_settings
from pipelines.engine.client_settings import PASSING
from schemas.kafka_access import KafkaAccess

SECONDS = 3.0
FIRST_PART = 2_000  # offsets
PART_GROWS = 8  # times, from part to part
LARGEST_PART = 64_000  # offsets
READ_AT_ONCE = 5_000  # records; between two reads other threads get their turn


class LastChange(NamedTuple):
    """`offset` and `at` (Unix milliseconds) of the row's newest record, None if it was not found. `searched_from` is the lowest offset that
    was read, `end` the changelog's end; `searched_from` of 0 or the changelog's first offset means that all of it was read."""

    offset: int | None
    at: int | None
    searched_from: int
    end: int


class SearchFailed(Exception):
    """Kafka does not answer, or not in time."""


class ChangelogSearch:
    """Searches one worker's changelogs. For the event loop; Kafka is read in a thread."""

    def __init__(self, kafka: KafkaAccess) -> None:
        self._kafka = kafka
        self._one_at_a_time = asyncio.Semaphore(1)

    async def find(self, topic: str, partition: int, key: bytes) -> LastChange:
        """The last change of a row. Takes up to SECONDS, and as long again if another search is under way. Raises SearchFailed."""
        try:
            await asyncio.wait_for(self._one_at_a_time.acquire(), SECONDS)
        except TimeoutError as error:
            raise SearchFailed("other searches are under way: ask again in a moment") from error
        try:
            return await asyncio.to_thread(_find, self._kafka, TopicPartition(topic, partition), key)
        finally:
            self._one_at_a_time.release()


def _find(kafka: KafkaAccess, source: TopicPartition, key: bytes) -> LastChange:
    until = time.monotonic() + SECONDS
    consumer = Consumer(
        {
            **client_settings.settings(kafka, "last-change", group_id="chat4all-restore", enable_auto_commit=False),
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
            "queued.max.messages.kbytes": 65_536,
            "max.partition.fetch.bytes": 8_388_608,
        }
    )
    try:
        low, high = consumer.get_watermark_offsets(source, timeout=SECONDS)
        upper, size, found = high, FIRST_PART, None
        while found is None and upper > low and time.monotonic() < until:
            start = max(low, upper - size)
            consumer.assign([TopicPartition(source.topic, source.partition, start)])
            part = _newest(consumer, key, upper, until)
            if part is None:
                break
            (found,), upper, size = part, start, min(size * PART_GROWS, LARGEST_PART)
    except KafkaException as error:
        raise SearchFailed(f"Kafka does not answer: {error.args[0].str()}") from error
    finally:
        consumer.close()
    offset, at = found or (None, None)
    return LastChange(offset, at, upper, high)


def _newest(consumer: Consumer, key: bytes, upper: int, until: float) -> tuple[tuple[int, int] | None] | None:
    """The newest record with the key before the offset `upper`, as a tuple of one: offset and time, or None. None when time ran out."""
    found: tuple[int, int] | None = None
    while time.monotonic() < until:
        first = consumer.poll(0.1)  # `consume` alone would wait for a full list
        for message in [] if first is None else [first, *consumer.consume(READ_AT_ONCE, 0)]:
            if _ends(message) or (message.offset() or 0) >= upper:
                return (found,)
            if message.error() is None and message.key() == key:
                found = (message.offset() or 0, message.timestamp()[1])
    return None


def _ends(message: Message) -> bool:
    error = message.error()
    if error is None:
        return False
    if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # librdkafka's own code has no public name
        return True
    if not (error.retriable() or error.code() in PASSING):
        raise KafkaException(error)
    return False
