"""The offsets that a stage's consumer group holds for its sources.

Enters: source partitions. Leaves: committed offsets with their metadata. The consumers here never subscribe; membership is Faust's.
"""

from collections.abc import Iterable
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pipelines.engine import client_settings
from pipelines.engine.transactions import HeldOffset
from schemas.kafka_access import KafkaAccess

TopicPart = tuple[str, int]
ASK_SECONDS = 30.0


class GroupOffsets:
    """The group `name`. All methods block: call them from a thread. `consumer` may be used for questions about topics too."""

    def __init__(self, kafka: KafkaAccess, name: str) -> None:
        # librdkafka asks again for an offset of a transaction that is about to end; with its default of 100 ms each takeover would wait
        # as long
        soon = {"retry.backoff.ms": 5, "retry.backoff.max.ms": 50}
        self._settings: dict[str, Any] = {
            **client_settings.settings(kafka, "group", group_id=name, enable_auto_commit=False),
            **soon,
        }
        self.consumer = Consumer(self._settings)

    def held(self, sources: Iterable[TopicPart], seconds: float = ASK_SECONDS) -> dict[TopicPart, HeldOffset]:
        """What the group holds, without sources that have no committed offset yet. Waits for offsets of a transaction that is still open or
        being completed (read_committed is librdkafka's default), `seconds` at most. Raises KafkaException."""
        return _committed(self.consumer, sources, seconds)

    def stable(self, sources: Iterable[TopicPart], seconds: float) -> dict[TopicPart, HeldOffset] | None:
        """As `held`, but None when an open transaction holds some of the offsets for so long, or Kafka did not answer in time."""
        try:
            return self.held(sources, seconds)
        except KafkaException as error:
            if error.args[0].code() != KafkaError._TIMED_OUT:  # noqa: SLF001  # librdkafka's own code has no public name
                raise
        return None

    def before(self, sources: Iterable[TopicPart]) -> dict[TopicPart, HeldOffset]:
        """What the group held before the transactions that are open; does not wait for them. Raises KafkaException."""
        consumer = Consumer({**self._settings, "isolation.level": "read_uncommitted"})
        try:
            return _committed(consumer, sources, ASK_SECONDS)
        finally:
            consumer.close()

    def close(self) -> None:
        self.consumer.close()


def _committed(consumer: Consumer, sources: Iterable[TopicPart], seconds: float) -> dict[TopicPart, HeldOffset]:
    asked = [TopicPartition(*source) for source in sources]
    if not asked:
        return {}
    found = consumer.committed(asked, timeout=seconds)
    for tp in found:
        if tp.error is not None:
            raise KafkaException(tp.error)
    return {(tp.topic, tp.partition): HeldOffset(tp.offset, tp.metadata or "") for tp in found if tp.offset >= 0}
