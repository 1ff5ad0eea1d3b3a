"""The transactions of one worker: the commit of turns, and the way to learn an outcome that is not known.

Enters: turns of several partitions. Leaves: their outputs, changelog rows and source offsets, committed together or not at all. The
offsets are sent in the name of a member of the group in one generation: a group with a newer generation refuses them, and no reader ever
sees anything of the transaction. Where librdkafka asks for it, a transaction is aborted and sent again, the same records in the same
order. When a commit fails without an outcome, or gets no answer, `reopen` finds out: a new producer with the same transactional id ends
what was open, and then the group holds either the offsets with the metadata of this transaction, or what it held before.
"""

import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pipelines.engine import client_settings
from pipelines.engine.membership import Member
from pipelines.engine.offset_metadata import OffsetMetadata
from pipelines.engine.stage import Output
from pipelines.engine.transactional_producer import Rows, TransactionalProducer
from schemas.kafka_access import KafkaAccess

COMMIT_SECONDS = 15.0
# librdkafka 2.16 does not always keep to the time-outs it is given (confluentinc/librdkafka#5456, #5511)
OVERTIME_SECONDS = 3.0
REACH_SECONDS = 2.0  # for a broker to answer a new client
TAKEN = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED})  # noqa: SLF001  # librdkafka's own code has no public name
EXPELLED = frozenset({KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.FENCED_INSTANCE_ID})
TopicPart = tuple[str, int]
Ends = Mapping[str, int]  # of one turn: changelog -> the offset after its last row
log = structlog.get_logger(__name__)


class CommitFailed(Exception):
    """A transaction was not committed; no reader sees anything of it."""


class Fenced(CommitFailed):
    """The partitions may belong to another worker: no reader sees anything of this turn, and the memory of it must not be used any more."""


class IdTaken(Fenced):
    """Another process has opened a producer with this worker's transactional id."""


class OutcomeUnknown(CommitFailed):
    """Kafka's client gave up on a commit that may have taken place: `reopen` finds out."""


class Unreachable(Exception):
    """Kafka does not answer now. The same call may be repeated."""


class HeldOffset(NamedTuple):
    """What the group holds for a source partition: the offset of the next record, and the metadata of that commit as text."""

    offset: int
    metadata: str


class TurnContents(NamedTuple):
    """What one partition makes visible in a transaction. `starts` and `trying` go into the metadata of the offsets (offset_metadata.py)."""

    outputs: Sequence[Output] = ()
    rows: Sequence[Rows] = ()
    offsets: Mapping[TopicPart, int] = {}  # never written to
    starts: int = 0
    trying: TopicPart | None = None


class Sent(NamedTuple):
    """One transaction: its turns, and what the group holds when it has committed. No other transaction makes the group hold the same."""

    turns: Sequence[TurnContents]
    held: Mapping[TopicPart, HeldOffset]


class Transactions:
    """The transactions of one worker.

    `commit` and `reopen` block: call them from a thread, one at a time, `reopen` first. The other methods do not block and may run in the
    event loop, but not while one of those two runs. `member` is set after each rebalance; a transaction of a former generation is refused.
    """

    def __init__(
        self,
        *,
        kafka: KafkaAccess,
        transactional_id: Callable[[], str],
        metadata: Callable[[], OffsetMetadata],
        topic: str,
        held: Callable[[Iterable[TopicPart], float], Mapping[TopicPart, HeldOffset]],
    ) -> None:
        """`metadata` gives the metadata for every offset, `topic` is any topic that exists. `held(sources, seconds)` asks the group what it
        holds; it blocks and may raise KafkaException."""
        self.member = Member("", "", -1)  # in whose name offsets are sent
        self._access = kafka
        self._transactional_id = transactional_id
        self._metadata = metadata
        self._topic = topic
        self._held = held
        self._known: dict[TopicPart, HeldOffset] = {}
        self._name = uuid.uuid4().hex[:12]  # of this object, so that no other object writes equal metadata
        self._number = 0
        self._producer: TransactionalProducer | None = None

    @property
    def id(self) -> str:
        """The transactional id."""
        return self._transactional_id()

    # --- what the group holds ---------------------------------------------------------------------------------------------

    def note_held(self, held: Mapping[TopicPart, HeldOffset]) -> None:
        """Notes what the group holds for sources that this worker has just got. What differs from it later was committed since, by this
        worker (`record_committed`) or by another one."""
        self._known.update(held)

    def is_last(self, sources: Iterable[TopicPart], held: Mapping[TopicPart, HeldOffset]) -> bool:
        """Whether no other worker has committed anything for these sources since `note_held`; `held` is what the group holds now."""
        return all(held.get(source) == self._known.get(source) for source in sources)

    def record_committed(self, sent: Sent) -> None:
        """Notes that the transaction has committed."""
        self._known.update(sent.held)

    def has_happened(self, sent: Sent, held: Mapping[TopicPart, HeldOffset]) -> bool:
        """Whether a transaction has committed, given what the group holds after the transaction was ended. Raises Fenced when another
        worker has committed since, and CommitFailed for a transaction without offsets."""
        if not sent.held:
            raise CommitFailed(f"{self.id}: no offset shows whether a transaction was committed")
        if all(held.get(source) == at for source, at in sent.held.items()):
            return True
        if not self.is_last(sent.held, held):
            raise Fenced(f"{self.id}: fenced, the group holds what another worker has committed")
        return False

    # --- one transaction --------------------------------------------------------------------------------------------------

    def send(self, turns: Sequence[TurnContents]) -> Sent:
        """Gives the turns' records to the producer, within a transaction. Does not block; what goes wrong, `commit` reports. Raises
        CommitFailed when no producer is open."""
        self._number += 1
        self._produce(turns)
        of_all = dataclasses.replace(self._metadata(), turn=f"{self._name}.{self._number}", writer=self.id)
        held: dict[TopicPart, HeldOffset] = {}
        for turn in turns:
            text = dataclasses.replace(of_all, starts=turn.starts, trying=turn.trying).text()
            held.update((source, HeldOffset(offset, text)) for source, offset in turn.offsets.items())
        return Sent(turns, held)

    def commit(self, sent: Sent) -> list[Ends]:
        """Commits what was sent; returns the ends of the changelogs, turn by turn. Blocks for COMMIT_SECONDS at most, as far as librdkafka
        keeps its time-outs.

        Raises OutcomeUnknown: call `reopen`. Raises Fenced or CommitFailed: no reader sees anything of the transaction.
        """
        positions = [TopicPartition(*source, at.offset, at.metadata) for source, at in sent.held.items()]
        producer, group, end = self._open_producer, self.member.metadata(), time.monotonic() + COMMIT_SECONDS
        while True:
            try:
                producer.finish(positions, group, end)
            except KafkaException as error:
                cause = error.args[0]
                if cause.code() in TAKEN or not cause.txn_requires_abort() or time.monotonic() >= end:
                    raise self._failed(cause, "commit", producer.undelivered) from error
            else:
                return [_ends(turn, producer.ends) for turn in sent.turns]
            self._abort(producer, end)
            if cause.code() in EXPELLED:
                raise Fenced(f"{self.id}: this worker is no longer a member of the group: {cause.str()}")
            if producer.undelivered:
                raise CommitFailed(f"{self.id}: commit: {producer.undelivered}")
            log.warning("transaction aborted, sent again", transaction=self.id, cause=cause.str())
            for turn in sent.turns:
                producer.send_again(turn.outputs, turn.rows)

    def reopen(self, sent: Sent | None, seconds: float = REACH_SECONDS) -> list[Ends] | None:
        """Opens a producer, the first one or in place of one that lost its connection or does not answer; whatever was open with the same
        transactional id is ended. Blocks, each step for `seconds` at most.

        `sent` is a transaction whose outcome is not known. Returns the ends of its changelogs when it has committed, and None when it has
        not: its turns have to be sent again. Raises Unreachable: call again. Raises Fenced when another worker has committed since, and
        IdTaken when another process opened the id at the same time.
        """
        producer = TransactionalProducer(kafka=self._access, transactional_id=self.id)
        failure: KafkaError | None = None
        held: Mapping[TopicPart, HeldOffset] = {}
        try:
            producer.connect(self._topic, seconds)
            producer.fence(time.monotonic() + seconds)
            held = self._held(sent.held, seconds) if sent is not None else {}
        except KafkaException as error:
            failure = error.args[0]
        if failure is not None:
            close_in_background(producer)
            if failure.code() in TAKEN:
                raise self._failed(failure, "open")
            raise Unreachable(failure.str())
        former, self._producer = self._producer, producer
        if former is not None:
            close_in_background(former)
        happened = sent is not None and self.has_happened(sent, held)
        log.info("producer opened", transaction=self.id, happened=None if sent is None else happened)
        return self._asked_ends(sent.turns) if sent is not None and happened else None

    def close(self) -> None:
        """Closes the producer, in a thread of its own."""
        if self._producer is not None:
            close_in_background(self._producer)
            self._producer = None

    def _produce(self, turns: Sequence[TurnContents]) -> None:
        for turn in turns:
            self._open_producer.send(turn.outputs, turn.rows)

    def _asked_ends(self, turns: Sequence[TurnContents]) -> list[Ends]:
        """Where the changelogs of turns end; asked while no other worker can have written to them since."""
        try:
            return _watermarks(self._access, turns)
        except KafkaException as error:
            raise Unreachable(error.args[0].str()) from error

    @property
    def _open_producer(self) -> TransactionalProducer:
        if self._producer is None:
            raise CommitFailed(f"{self.id}: no producer is open")
        return self._producer

    def _abort(self, producer: TransactionalProducer, end: float) -> None:
        try:
            producer.abort(end)
        except KafkaException as error:
            raise self._failed(error.args[0], "abort", producer.undelivered) from error

    def _failed(self, cause: KafkaError, what: str, why: str | None = None) -> CommitFailed:
        if cause.code() in TAKEN:
            return IdTaken(f"{self.id}: {what}: fenced, another process has opened this transactional id")
        return OutcomeUnknown(f"{self.id}: {what}: {why or cause.str()}")


def end_open_transaction(kafka: KafkaAccess, transactional_id: str, topic: str) -> None:
    """Ends what a crashed or expelled writer left open, and fences it in case it still runs. `topic` is any topic that exists. Blocks.
    Raises Unreachable: call again."""
    producer = TransactionalProducer(kafka=kafka, transactional_id=transactional_id)
    failure: KafkaError | None = None
    try:
        producer.connect(topic, REACH_SECONDS)
        producer.fence(time.monotonic() + COMMIT_SECONDS)
    except KafkaException as error:
        failure = error.args[0]
    close_in_background(producer)
    if failure is not None and failure.code() not in TAKEN:  # taken: another worker does the same at this moment
        raise Unreachable(failure.str())


def close_in_background(producer: TransactionalProducer) -> None:
    """Closes a producer in a thread of its own: closing may take as long as the call that the producer is stuck in. Does not block."""
    threading.Thread(target=producer.close, name="close", daemon=True).start()


def _ends(turn: TurnContents, found: Mapping[TopicPart, int]) -> Ends:
    return {rows.topic: found[rows.topic, rows.partition] for rows in turn.rows if rows.changes}


def _watermarks(kafka: KafkaAccess, turns: Sequence[TurnContents]) -> list[Ends]:
    consumer = Consumer(client_settings.settings(kafka, "ends", group_id="chat4all-ends"))

    def end(topic: str, partition: int) -> int:
        return consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=REACH_SECONDS)[1]

    try:
        return [{rows.topic: end(rows.topic, rows.partition) for rows in turn.rows if rows.changes} for turn in turns]
    finally:
        consumer.close()
