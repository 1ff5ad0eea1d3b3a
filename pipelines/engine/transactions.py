"""The transactions of one partition of one stage: the commit of a turn, and what becomes of one whose outcome is not known.

A turn's outputs, changelog rows and source offsets commit together. Where librdkafka asks for it, the transaction is aborted and done
again, the same records in the same order. When it fails without saying what has happened, or never answers, `reopen` finds out: a new
producer with the same id ends whatever was open, and the group then holds the turn's offsets with its mark, or what it held before.
When it holds anything else, somebody else has committed: Fenced, and the memory must not be used any more.
"""

import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pipelines.engine import clients
from pipelines.engine.marks import Mark
from pipelines.engine.producer import Rows, TransactionalProducer
from pipelines.engine.stage import Output

COMMIT_SECONDS = 15.0
# librdkafka 2.16 does not always keep to the time-outs it is given (confluentinc/librdkafka#5456, #5511)
OVERTIME_SECONDS = 3.0
REACH_SECONDS = 2.0  # for a broker to answer a client that is new
_FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED})  # noqa: SLF001  # librdkafka's own code has no public name
TopicPart = tuple[str, int]
log = structlog.get_logger(__name__)


class CommitFailed(Exception):
    """A transaction could not be committed; nothing of it is visible."""


class Fenced(CommitFailed):
    """Another worker has taken the partition over; nothing of this turn is visible."""


class OutcomeUnknown(CommitFailed):
    """Kafka's client gave up on a commit; whether it has happened is to be asked."""


class Unreachable(Exception):
    """Kafka does not answer now."""


class Held(NamedTuple):
    """What the group holds for a source partition: the offset of the next record, and the mark of whoever committed it."""

    offset: int
    mark: str


class Turn(NamedTuple):
    """What one transaction makes visible. `starts` and `trying` go into the mark (pipelines/engine/marks.py)."""

    outputs: Sequence[Output] = ()
    rows: Sequence[Rows] = ()
    offsets: Mapping[TopicPart, int] = {}  # never written to
    starts: int = 0
    trying: TopicPart | None = None


class Transactions:
    """Of one partition of one stage. All methods but `send` and `leave` block: call them from a thread."""

    def __init__(
        self,
        *,
        kafka_url: str,
        app_id: str,
        partition: int,
        group: Any,
        mark: Mark,
        topic: str,
        held: Callable[[], Mapping[TopicPart, Held]],
    ) -> None:
        """`group` is the metadata of the group that offsets are committed for, `topic` any that exists, and `held` asks the group for
        what it holds for the partition's sources; it may raise KafkaException."""
        self.id = f"{app_id}-{partition}"
        self._kafka_url = kafka_url
        self._group = group
        self._mark = mark
        self._topic = topic
        self._held = held
        self._known: dict[TopicPart, Held] = {}
        self._name = uuid.uuid4().hex[:12]  # of this object: no other one's marks are the same
        self._number = 0
        self._text = ""  # the mark of the latest turn
        self._producer = TransactionalProducer(kafka_url=kafka_url, transactional_id=self.id)

    def connect(self) -> None:
        """Connects, before it fences anybody."""
        try:
            self._producer.connect(self._topic, COMMIT_SECONDS)
        except KafkaException as error:
            raise CommitFailed(f"{self.id}: {error.args[0].str()}") from error

    def fence(self) -> None:
        """Fences the former owner and aborts what it left open."""
        try:
            self._producer.fence(time.monotonic() + COMMIT_SECONDS)
        except KafkaException as error:
            raise _failed(error.args[0], f"{self.id}: init_transactions") from error

    def knows(self, held: Mapping[TopicPart, Held]) -> None:
        """What the group holds now, asked after the fence: whatever else it holds later is ours, or somebody else's."""
        self._known = dict(held)

    def send(self, turn: Turn) -> None:
        """Gives the turn's records to the producer, in a transaction; never blocks for long."""
        self._producer.send(turn.outputs, turn.rows)

    def commit(self, turn: Turn) -> Mapping[str, int]:
        """Commits what was sent; returns, for each changelog written to, the offset after its last row.

        Raises Fenced or CommitFailed: nothing is visible then. Raises OutcomeUnknown: ask `reopen`.
        """
        self._number += 1
        marked = dataclasses.replace(
            self._mark, turn=f"{self._name}.{self._number}", starts=turn.starts, trying=turn.trying
        )
        self._text = text = marked.text()
        positions = [TopicPartition(*source, offset, text) for source, offset in turn.offsets.items()]
        producer, end = self._producer, time.monotonic() + COMMIT_SECONDS
        while True:
            try:
                producer.finish(positions, self._group, end)
                break
            except KafkaException as error:
                cause = error.args[0]
                if producer.undelivered or not cause.txn_requires_abort() or time.monotonic() >= end:
                    raise _failed(cause, f"{self.id}: commit", producer.undelivered) from error
                log.warning("transaction aborted, done again", transaction=self.id, cause=cause.str())
                self._abort(producer, end)
                producer.send_again(turn.outputs, turn.rows)
        self._known.update({source: Held(offset, text) for source, offset in turn.offsets.items()})
        return producer.ends

    def reopen(self, turn: Turn | None) -> Mapping[str, int] | None:
        """A new producer in place of one whose connection was lost or that does not answer. For a `turn` whose outcome is not known:
        the ends of its changelogs when it has happened, None when it has not and is to be sent again.

        Raises Unreachable: to be tried again. Raises Fenced when somebody else has committed since.
        """
        producer = TransactionalProducer(kafka_url=self._kafka_url, transactional_id=self.id)
        failure: KafkaError | None = None
        happened, ends = False, None
        held: dict[TopicPart, Held] = {}
        try:
            producer.connect(self._topic, REACH_SECONDS)
            producer.fence(time.monotonic() + REACH_SECONDS)
            held = dict(self._held())
            if turn is not None and turn.offsets:
                happened = all(held.get(source) == Held(at, self._text) for source, at in turn.offsets.items())
                ends = _ends(self._kafka_url, turn.rows) if happened else None
        except KafkaException as error:
            failure = error.args[0]
        if failure is not None:
            _leave(producer)
            if failure.code() in _FENCED:
                raise _failed(failure, f"{self.id}: opened anew")
            raise Unreachable(failure.str())
        if turn is not None and not turn.offsets:
            raise CommitFailed(f"{self.id}: no offset tells whether the turn was committed")
        if not happened and held != self._known:
            raise Fenced(f"{self.id}: fenced, the group holds what somebody else has committed")
        self._known = held
        former, self._producer = self._producer, producer
        _leave(former)
        log.info("producer opened anew", transaction=self.id, turn=None if turn is None else happened)
        return ends

    def leave(self) -> None:
        """Nothing more is sent or committed. Does not block."""
        _leave(self._producer)

    def _abort(self, producer: TransactionalProducer, end: float) -> None:
        try:
            producer.abort(end)
        except KafkaException as error:
            raise _failed(error.args[0], f"{self.id}: abort") from error


def _leave(producer: TransactionalProducer) -> None:
    """Lets go of a producer in a thread of its own: its end may take as long as whatever it is stuck in."""
    threading.Thread(target=producer.close, name="leave", daemon=True).start()


def _ends(kafka_url: str, rows: Sequence[Rows]) -> Mapping[str, int]:
    """Where the changelogs of a turn end, asked when nobody else can have written to them since."""
    if not rows:
        return {}
    consumer = Consumer(clients.settings(kafka_url, log_level=0, group_id="chat4all-ends"))
    try:
        return {
            topic: consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=REACH_SECONDS)[1]
            for topic, partition, changes in rows
            if changes
        }
    finally:
        consumer.close()


def _failed(cause: KafkaError, what: str, why: str | None = None) -> CommitFailed:
    if cause.code() in _FENCED:
        return Fenced(f"{what}: fenced, somebody else has opened {what.partition(':')[0]}")
    return CommitFailed(f"{what}: {why}") if why else OutcomeUnknown(f"{what}: {cause.str()}")
