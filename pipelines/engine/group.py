"""The consumer group of a stage, as the transactions see it: what it holds for the sources, and the name offsets are committed under.

A consumer that never subscribes. Membership is Faust's.
"""

from collections.abc import Iterable

from confluent_kafka import Consumer, KafkaException, TopicPartition

from pipelines.engine import clients
from pipelines.engine.transactions import Held

TopicPart = tuple[str, int]
ASK_SECONDS = 30.0


class Group:
    """`metadata` is what a transaction needs to commit the group's offsets."""

    def __init__(self, kafka_url: str, name: str) -> None:
        # silent: it exists before anything is asked of Kafka, and Fetch says what happens to the connection
        self.consumer = Consumer(clients.settings(kafka_url, log_level=0, group_id=name, enable_auto_commit=False))
        self.metadata = self.consumer.consumer_group_metadata()

    def held(self, sources: Iterable[TopicPart], seconds: float = ASK_SECONDS) -> dict[TopicPart, Held]:
        """What the group holds, without sources that nobody has committed yet. Blocks; waits for offsets of a transaction that is still
        being completed (read_committed is librdkafka's default). Raises KafkaException."""
        found = self.consumer.committed([TopicPartition(*source) for source in sources], timeout=seconds)
        for tp in found:
            if tp.error is not None:
                raise KafkaException(tp.error)
        return {(tp.topic, tp.partition): Held(tp.offset, tp.metadata or "") for tp in found if tp.offset >= 0}

    def close(self) -> None:
        self.consumer.close()
