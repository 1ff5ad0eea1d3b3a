"""Produces a scenario with an ordinary confluent-kafka producer, and logs what Kafka acknowledged.

Enters: a scenario's options, a rate, Kafka. Leaves: records on contacts, conversations and messages; one JSON line per acknowledged
message: {message_id, conversation_id, partition, offset, at, duplicate, recipients: [[channel, address], ...]}. Guaranteed: contacts and
conversations are acknowledged before the first message; the messages of a conversation are produced in order; a duplicate equals its
original byte for byte. The log is evidence for the verdict: each of its messages must reach every recipient exactly once.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from confluent_kafka import KafkaException, Producer
from confluent_kafka import Message as KafkaMessage

from loadgen.scenario import Planned, Scenario
from schemas import codec, private_files
from schemas.kafka_access import KafkaAccess
from schemas.kafka_reachability import KafkaReachability, Unreached
from schemas.keys import DEFAULT_TENANT, contact_key, conversation_key
from schemas.records import Message, Record

PROGRESS_SECONDS = 0.1
_ACKNOWLEDGE_SECONDS = 120.0


class LoadFailed(Exception):
    """The load could not be produced. The sentence says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a load, in messages with duplicates. `total` is an estimate until the end, because duplicates are random."""

    produced: int
    acknowledged: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What was acknowledged: the number of different messages, of duplicates, and of the deliveries that must result."""

    messages: int
    duplicates: int
    deliveries: int
    seconds: float


class Load:
    """One load. `run` blocks until the end and may be called once; do not call it on an event loop. `stop` may be called from any
    thread."""

    def __init__(
        self,
        *,
        kafka: KafkaAccess,
        run_id: str,
        seed: int,
        count: int,
        rate: float,
        log: Path,
        channels: Sequence[str],
        conversations: int = 100,
        group_share: float = 0.0,
        groups: int = 1,
        group_size: int = 20,
        duplicate_share: float = 0.0,
        topic_prefix: str = "",
    ) -> None:
        """`rate` is messages per second; 0 is as fast as possible. `topic_prefix` is put before each topic's name, for tests that share a
        server. The other options are those of loadgen.scenario.Scenario."""
        self.scenario = Scenario(
            run=run_id,
            seed=seed,
            count=count,
            channels=tuple(channels),
            conversations=conversations,
            group_share=group_share,
            groups=groups,
            group_size=group_size,
            duplicate_share=duplicate_share,
        )
        self._kafka = kafka
        self._rate = rate
        self._log_path = log
        self._prefix = topic_prefix
        self._stopped = threading.Event()
        self._started = time.monotonic()
        self._values: dict[str, bytes] = {}  # values of messages whose duplicate is still to be produced
        self._produced = self._messages = self._duplicates = self._deliveries = 0
        self._failure = ""
        self._total = count + round(count * duplicate_share)

    def run(self, progress: Callable[[Progress], None] = lambda _: None) -> LoadResult:
        """Produces everything, and blocks until Kafka has acknowledged it. Calls `progress` about ten times a second in this thread. Raises
        LoadFailed."""
        private_files.make_folder(self._log_path.parent)
        private_files.append_to(self._log_path).close()
        try:
            with self._log_path.open("a", encoding="utf-8") as log:
                producer = self._producer()
                self._introduce(producer)
                self._started = time.monotonic()
                self._produce_all(producer, log, progress)
                self._await_acknowledged(producer, progress)
        except KafkaException as error:
            raise LoadFailed(f"Kafka at {self._kafka}: {error.args[0]}") from error
        if self._failure:
            raise LoadFailed(f"not acknowledged by Kafka: {self._failure}")
        return LoadResult(self._messages, self._duplicates, self._deliveries, self._seconds())

    def stop(self) -> None:
        """Stops producing. `run` returns when Kafka has acknowledged the messages that were produced."""
        self._stopped.set()

    def _producer(self) -> Producer:
        reach = KafkaReachability(self._kafka)
        try:
            producer = Producer(
                {
                    **reach.settings("load"),
                    "partitioner": "murmur2_random",  # Java's default; with librdkafka's own, route would have to forward messages
                    "enable.idempotence": True,
                    "acks": "all",
                    "linger.ms": 5,
                }
            )
            known = reach.metadata(producer, 10).topics
        except Unreached as error:
            raise LoadFailed(str(error)) from error
        missing = [name for name in ("messages", "contacts", "conversations") if self._prefix + name not in known]
        if missing:
            raise LoadFailed(
                f"no topic {', '.join(missing)} at {self._kafka}: start the stages first, they make the topics"
            )
        return producer

    def _introduce(self, producer: Producer) -> None:
        """Produces the people and groups, and waits for their acknowledgement."""
        now = _now()
        for contact in self.scenario.contacts(now):
            self._produce(producer, "contacts", contact_key(contact.tenant_id, contact.user_id), contact)
        for group in self.scenario.group_conversations(now):
            key = conversation_key(group.tenant_id, group.conversation_id)
            self._produce(producer, "conversations", key, group)
        if producer.flush(_ACKNOWLEDGE_SECONDS) or self._failure:
            raise LoadFailed(
                f"contacts and conversations were not acknowledged by Kafka: {self._failure or 'time-out'}"
            )

    def _produce(self, producer: Producer, topic: str, key: str, record: Record) -> None:
        def acknowledged(error: object, _message: KafkaMessage) -> None:
            if error is not None:
                self._failure = str(error)

        _offer(producer, self._prefix + topic, key, codec.encode(record), acknowledged)

    def _produce_all(self, producer: Producer, log: TextIO, progress: Callable[[Progress], None]) -> None:
        reported = self._started
        for planned in self.scenario.messages():
            due = self._started + self._produced / self._rate if self._rate else 0.0
            # Kafka's client waits in whole milliseconds: a message that is due in less than one is produced now, so that the rate is even.
            while not self._stopped.is_set() and (wait := due - time.monotonic()) >= 0.001:
                producer.poll(min(wait, PROGRESS_SECONDS))
            if self._stopped.is_set():
                return
            self._offer_planned(producer, log, planned)
            self._produced += 1
            producer.poll(0)
            if time.monotonic() - reported >= PROGRESS_SECONDS:
                reported = time.monotonic()
                progress(self._progress())

    def _offer_planned(self, producer: Producer, log: TextIO, planned: Planned) -> None:
        def acknowledged(error: object, message: KafkaMessage) -> None:
            self._note(log, planned, error, message)

        key = conversation_key(DEFAULT_TENANT, planned.conversation_id)
        _offer(producer, f"{self._prefix}messages", key, self._value(planned), acknowledged)

    def _await_acknowledged(self, producer: Producer, progress: Callable[[Progress], None]) -> None:
        end = time.monotonic() + _ACKNOWLEDGE_SECONDS
        while producer.flush(PROGRESS_SECONDS):
            progress(self._progress())
            if time.monotonic() > end:
                raise LoadFailed(
                    f"{len(producer)} messages were not acknowledged by Kafka within {_ACKNOWLEDGE_SECONDS:.0f} s"
                )
        self._total = self._produced
        progress(self._progress())

    def _value(self, planned: Planned) -> bytes:
        if planned.is_duplicate:
            return self._values.pop(planned.message_id)
        message = Message(
            message_id=planned.message_id,
            conversation_id=planned.conversation_id,
            recipients=planned.recipients,
            text=planned.text,
            requested_at=_now(),
        )
        value = codec.encode(message)
        if planned.comes_again:
            self._values[planned.message_id] = value
        return value

    def _note(self, log: TextIO, planned: Planned, error: object, message: KafkaMessage) -> None:
        if error is not None:
            self._failure = str(error)
            return
        if planned.is_duplicate:
            self._duplicates += 1
        else:
            self._messages += 1
            self._deliveries += len(planned.expected)
        line = {
            "message_id": planned.message_id,
            "conversation_id": planned.conversation_id,
            "partition": message.partition(),
            "offset": message.offset(),
            "at": _now(),
            "duplicate": planned.is_duplicate,
            "recipients": planned.expected,
        }
        log.write(json.dumps(line, separators=(",", ":")) + "\n")

    def _progress(self) -> Progress:
        acknowledged = self._messages + self._duplicates
        return Progress(self._produced, acknowledged, max(self._total, self._produced), self._seconds())

    def _seconds(self) -> float:
        return time.monotonic() - self._started


def _offer(
    producer: Producer, topic: str, key: str, value: bytes, acknowledged: Callable[[object, KafkaMessage], None]
) -> None:
    """Produces a record; waits while the producer's queue is full."""
    while True:
        try:
            producer.produce(topic, value, key.encode(), on_delivery=acknowledged)
        except BufferError:
            producer.poll(0.1)
        else:
            return


def _now() -> int:
    return time.time_ns() // 1_000_000
