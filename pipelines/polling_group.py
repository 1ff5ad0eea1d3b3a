"""Kafka's side of polling: which gateway polls an account, how far it has come, and the transactions that store updates.

In: the records of polled updates, and the position behind them. Out: both in one Kafka transaction. The gateways that could poll an account
are members of its consumer group; the member with the one partition of topic POLLING polls. That topic has no records: the position is
in the metadata of the group's offset, and the offset stays 0, so that Kafka's tools show no lag.

Guaranteed: a position is kept together with the records before it, or neither is. A member that lost the partition stores nothing more,
because its generation is over, and because the next one opens a producer with the same transactional id, which also ends what a crashed
gateway left open. After any failure, `open` finds out how far the group has come.
"""

import contextlib
import time
from collections.abc import Callable, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pipelines import produce_errors
from pipelines.acknowledged_producer import OutgoingRecord, RefusedRecord, too_large
from pipelines.engine import client_settings
from pipelines.engine.stage import Output
from pipelines.engine.transactional_producer import TransactionalProducer
from pipelines.engine.transactions import EXPELLED, TAKEN, close_in_background
from pipelines.topics import POLLING
from schemas.kafka_access import KafkaAccess

COMMIT_SECONDS = 12.0  # less than the time after which Kafka ends a transaction by itself
OPEN_SECONDS = 5.0
ABORT_SECONDS = 2.0
PREFIX = "chat4all-polling"  # of the groups and transactional ids; the first word of an offset's metadata
Letter = Callable[[RefusedRecord], OutgoingRecord]


class NoLongerHeld(Exception):
    """Another gateway has the partition, or soon will."""


class PollingGroup:
    """This gateway's membership in the group of one account (of a channel), and its transactions.

    All methods but `leave` block. `look` and `leave` belong to one thread, `open`, `store` and `close` to another one; `is_held` may be
    read anywhere. A lost connection raises KafkaException, here and below; the call may be repeated, after `open`.
    """

    def __init__(self, kafka: KafkaAccess, channel: str, account: str, session_seconds: float) -> None:
        self.name = f"{PREFIX}-{channel}-{account}"  # of the group, and the transactional id
        self.is_held = False
        self._access = kafka
        self._producer: TransactionalProducer | None = None
        self._consumer = Consumer(
            client_settings.settings(
                kafka,
                "polling",
                group_id=self.name,
                enable_auto_commit=False,
                # the member that has the partition keeps it when another one joins
                partition_assignment_strategy="cooperative-sticky",
                session_timeout_ms=int(session_seconds * 1000),
                heartbeat_interval_ms=max(100, int(session_seconds * 1000 / 4)),
                fetch_wait_max_ms=5_000,  # the topic has no records
            )
        )
        self._consumer.subscribe([POLLING], on_assign=self._got, on_revoke=self._lost, on_lost=self._lost)

    def look(self, seconds: float) -> bool:
        """Serves the membership for `seconds` at most; returns whether this gateway is the one that polls."""
        message = self._consumer.poll(seconds)
        error = None if message is None else message.error()
        if error is not None and error.code() not in client_settings.PASSING and not error.retriable():
            raise KafkaException(error)
        return self.is_held

    def open(self) -> str:
        """Ends what a former producer of this account left open, fences it, and returns the position; empty when there is none.
        Raises NoLongerHeld when another gateway does the same."""
        self.close()
        producer = TransactionalProducer(kafka=self._access, transactional_id=self.name)
        try:
            producer.connect(POLLING, OPEN_SECONDS)
            producer.fence(time.monotonic() + OPEN_SECONDS)
            [found] = self._consumer.committed([TopicPartition(POLLING, 0)], timeout=OPEN_SECONDS)
        except KafkaException as error:
            close_in_background(producer)
            if error.args[0].code() in TAKEN:
                raise NoLongerHeld from error
            raise
        self._producer = producer
        if found.error is not None:
            raise KafkaException(found.error)
        first, _, position = (found.metadata or "").partition(" ")
        return position if first == PREFIX and found.offset >= 0 else ""

    def store(self, records: Sequence[OutgoingRecord], position: str, letter: Letter) -> list[RefusedRecord]:
        """Stores the records and the position in one transaction. Returns the records that Kafka can never store: `letter` of each is
        stored in its place. Raises NoLongerHeld, or KafkaException, also when a letter is refused; then `open` says what happened."""
        try:
            return self._store(records, position, letter)
        except KafkaException as error:
            if error.args[0].code() in TAKEN | EXPELLED:
                raise NoLongerHeld from error
            raise

    def _store(self, records: Sequence[OutgoingRecord], position: str, letter: Letter) -> list[RefusedRecord]:
        end = time.monotonic() + COMMIT_SECONDS
        unfit = {number: found for number, record in enumerate(records) if (found := too_large(record)) is not None}
        one_by_one = False
        while True:
            sent = [_output(letter(unfit[number]) if number in unfit else each) for number, each in enumerate(records)]
            failed = self._send(sent, one_by_one, end)
            if failed is None:
                self._open_producer.finish([TopicPartition(POLLING, 0, 0, f"{PREFIX} {position}")], self._member(), end)
                return [unfit[number] for number in sorted(unfit)]
            number, error = failed
            cause = produce_errors.cause(error)
            if cause is None or number in unfit or time.monotonic() >= end:
                raise KafkaException(error)
            self.open()  # librdkafka may drop records of the transaction that follows an aborted one (2.16), a new producer's not
            if produce_errors.is_of_the_batch(error) and not one_by_one:
                one_by_one = True  # the broker refuses a whole batch for one record of it: each gets a batch of its own
                continue
            detail = f"topic {records[number].topic} does not take it: {error.str()}"
            unfit[number] = RefusedRecord(records[number], cause, detail)

    def close(self) -> None:
        """Ends the open transaction, if there is one, and closes the producer."""
        producer, self._producer = self._producer, None
        if producer is not None:
            # suppressed: none is open, or Kafka is away, and the next `open` of any gateway ends it
            with contextlib.suppress(KafkaException):
                producer.abort(time.monotonic() + ABORT_SECONDS)
            close_in_background(producer)

    def leave(self) -> None:
        """Leaves the group, so that another gateway polls at once. Nothing works afterwards. Blocks as long as Kafka takes."""
        self.is_held = False
        self._consumer.close()

    def _send(self, outputs: Sequence[Output], one_by_one: bool, end: float) -> tuple[int, KafkaError] | None:
        """Sends within the transaction; returns the first output that was refused, and why."""
        producer = self._open_producer
        for first, part in enumerate([[each] for each in outputs] if one_by_one else [outputs]):
            producer.send_again(part, [])
            producer.flush(max(0.1, end - time.monotonic()))
            if producer.refused:
                number = min(producer.refused)
                return first + number, producer.refused[number]
        return None

    def _member(self) -> object:
        """The membership, as a transaction needs it. It is of a generation in which the partition was ours: the next owner gets it only
        after `_lost` was called, or in a later generation."""
        if self.is_held:
            member = self._consumer.consumer_group_metadata()
            if self.is_held:
                return member
        raise NoLongerHeld

    @property
    def _open_producer(self) -> TransactionalProducer:
        if self._producer is None:
            raise NoLongerHeld
        return self._producer

    def _got(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self.is_held = self.is_held or bool(partitions)

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        if partitions:
            self.is_held = False


def _output(record: OutgoingRecord) -> Output:
    return Output(record.topic, record.key, record.value, record.partition)
