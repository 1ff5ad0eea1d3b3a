"""The Kafka half of `chat4all erase`: produces the records of an erasure, and waits until the workers have read them.

Enters: records, and the access of the operator's user. Leaves: nothing; every failure ends the command with one sentence. Guaranteed:
`produce` returns when all in-sync replicas have the records. All methods block, for bounded times.
"""

import time
from collections.abc import Callable, Iterable

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from cli.command_errors import fail
from pipelines.engine.kafka_names import app_id
from pipelines.erasure_records import TOPIC, ErasureRecord
from schemas.kafka_access import KafkaAccess
from schemas.kafka_reachability import KafkaReachability, Unreached

ASK_SECONDS = 10.0
ACKNOWLEDGED_WITHIN_SECONDS = 30.0
LOOK_SECONDS = 1.0


class ErasureKafka:
    """One connection for one command."""

    def __init__(self, access: KafkaAccess) -> None:
        self._access = access
        self._reach = KafkaReachability(access)
        self._ends: dict[int, int] = {}  # partition of erasures -> offset after the last record
        self._refused: KafkaError | None = None
        try:
            settings = self._reach.settings("erase")
            own = {"partitioner": "murmur2_random", "enable.idempotence": True}
            self._producer = Producer(
                {**settings, **own, "message.timeout.ms": int(ACKNOWLEDGED_WITHIN_SECONDS * 1000)}
            )
            topics = self._reach.metadata(self._producer, ASK_SECONDS).topics
        except Unreached as error:
            fail(str(error))
        found = topics.get(TOPIC)
        if found is None or found.error is not None or not found.partitions:
            fail(
                f"Kafka at {access} has no topic {TOPIC}, or this user may not see it: run `python -m pipelines prepare` of this release, "
                "and give the command the Kafka user operator (docs/security.md)"
            )
        self.partitions = len(found.partitions)

    def produce(self, records: Iterable[ErasureRecord]) -> None:
        """Produces records of an erasure."""
        for each in records:
            self._send(TOPIC, each.key, each.value, each.partition)
        self._flush()

    def delete_contact(self, key: bytes) -> None:
        """Produces the tombstone of a contact."""
        self._send("contacts", key, None, -1)
        self._flush()

    def wait(self, seconds: float, say: Callable[[int], None]) -> int:
        """Waits at most so long until the core workers have committed every record; returns how many partitions they have not read yet.
        `say` gets that number once a second."""
        end = time.monotonic() + seconds
        # It only asks for the group's offsets: without a subscription it is no member. (The admin client's call for this can crash.)
        group = Consumer(self._reach.settings("erase", group_id=app_id("core"), enable_auto_commit=False))
        try:
            while (behind := self._behind(group)) and time.monotonic() < end:
                say(behind)
                time.sleep(LOOK_SECONDS)
        finally:
            group.close()
        return behind

    def _send(self, topic: str, key: bytes, value: bytes | None, partition: int) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, partition, on_delivery=self._delivered)
            except BufferError:
                self._producer.poll(1.0)
            except KafkaException as error:
                fail(f"Kafka does not take the erasure: {error.args[0].str()}; run the command again")
            else:
                return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused = error
        elif message.topic() == TOPIC:
            partition, offset = message.partition() or 0, message.offset() or 0
            self._ends[partition] = max(self._ends.get(partition, 0), offset + 1)

    def _flush(self) -> None:
        left = self._producer.flush(ACKNOWLEDGED_WITHIN_SECONDS + 5)
        if left or self._refused is not None:
            why = self._reach.why() or ("no answer in time" if self._refused is None else self._refused.str())
            fail(f"Kafka at {self._access} did not store the erasure, run the command again, it continues: {why}")

    def _behind(self, group: Consumer) -> int:
        """How many partitions the core group has not read to the last record."""
        if not self._ends:
            return 0
        try:
            found = group.committed([TopicPartition(TOPIC, each) for each in self._ends], timeout=ASK_SECONDS)
        except KafkaException:
            return len(self._ends)  # the group's coordinator does not answer yet
        return sum(each.offset < self._ends[each.partition] for each in found)
