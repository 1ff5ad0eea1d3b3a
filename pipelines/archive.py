"""Stage archive: writes messages, conversations, deliveries, every transition and cursors to PostgreSQL.

In: conversation-log, delivery-states, cursors, conversations. Out: PostgreSQL, dead letters. Guaranteed: each record is written exactly
once, because PostgreSQL stores the offset in the same transaction as the rows. When a partition is assigned, this stage reads from the
offset in PostgreSQL; the group's offsets in Kafka only show the lag. One transaction writes the batches and offsets of several partitions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from pipelines.engine.stage import Decision, Inputs, Record, Refusal, Source
from pipelines.postgres_stage import PartitionWrites, PostgresStage, State, offsets_of
from schemas import codec, metrics
from schemas.keys import key_of, named_in, shown
from schemas.records import Conversation, Cursor, DeliveryState, SequencedMessage
from sinks.postgres import PostgresArchive as Sink
from sinks.staging import MembersRow
from tables.cursors import cursor_key, is_in_order

log = structlog.get_logger(__name__)
LEAST_FETCH_WAIT_MS = 100  # with 0, fetches would follow each other without a pause


@dataclass(slots=True)
class Writes(PartitionWrites):
    """One partition's batch of rows."""

    messages: list[SequencedMessage] = field(default_factory=list)
    states: list[DeliveryState] = field(default_factory=list)
    cursors: list[Cursor] = field(default_factory=list)
    # by key of the record: the last members of each conversation
    members: dict[bytes, MembersRow] = field(default_factory=dict)


class Archive(PostgresStage[Writes]):
    """`linger_ms` is the interval between two transactions. See PostgresStage."""

    name = "archive"
    sources = (
        Source("conversation-log"),
        Source("delivery-states"),
        Source("cursors", compacted=True),
        Source("conversations", compacted=True),
    )
    turn_records = 5000
    fetch_min_bytes = 65_536

    def __init__(self, *, sink: Sink, linger_ms: int) -> None:
        super().__init__(sink=sink, interval_ms=linger_ms)
        self._conflicts = self._reused = self._too_old = 0  # what the metrics contain so far of the sink's counters
        self.fetch_wait_ms = max(LEAST_FETCH_WAIT_MS, linger_ms)

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:  # noqa: ARG002  # no state, no time
        """Decodes the records into `decision.writes`. Refuses a record that cannot be decoded. Raises nothing on purpose."""
        writes = Writes()
        decision = Decision(writes=writes)
        for record in inputs.records:
            try:
                if record.topic == "conversation-log":
                    writes.messages.append(codec.decode(record.value, SequencedMessage))
                elif record.topic == "cursors":
                    self._take_cursor(record, writes, decision)
                elif record.topic == "conversations":
                    _take_members(record, writes)
                else:
                    writes.states.append(codec.decode(record.value, DeliveryState))
            except codec.CodecError as error:
                decision.refusals.append(Refusal(record, error.cause, str(error)))
            writes.passed(record)
        return decision

    def _take_cursor(self, record: Record, writes: Writes, decision: Decision) -> None:
        """A cursor that PostgreSQL's CHECK would not take, or whose key is another's, is refused: it must not stop the batch. A tombstone
        follows an erasure, which renames the row in PostgreSQL itself."""
        if record.value is None and record.key:
            return
        cursor = codec.decode(record.value, Cursor)
        key = cursor_key(cursor.tenant_id, cursor.conversation_id, cursor.member)
        if record.key != key.encode():
            detail = f"the key is {shown(record.key)}, and the cursor's is {shown(key.encode())}"
            decision.refusals.append(Refusal(record, "wrong_key", detail, cursor.tenant_id))
        elif not is_in_order(cursor):
            seqs = f"read {cursor.last_read_seq}, delivered {cursor.last_delivered_seq}, newest {cursor.newest_seq}"
            decision.refusals.append(Refusal(record, "cursor_out_of_order", seqs, cursor.tenant_id))
        else:
            writes.cursors.append(cursor)

    async def write_group(self, group: Sequence[Writes], sent: Callable[[], None]) -> None:
        """One transaction for the group."""
        messages = [message for writes in group for message in writes.messages]
        states = [state for writes in group for state in writes.states]
        cursors = [cursor for writes in group for cursor in writes.cursors]
        members = [each for writes in group for each in writes.members.values()]
        offsets = offsets_of(group)
        with metrics.SINK_SECONDS.labels(self.name).time():
            await self._sink.write(
                messages=messages, states=states, cursors=cursors, members=members, offsets=offsets, sent=sent
            )
        metrics.SINK_ROWS.labels(self.name).observe(len(messages) + len(states) + len(cursors) + len(members))
        self._count()

    def _count(self) -> None:
        metrics.EVENTS.labels("archive", "conflict").inc(self._sink.conflicts - self._conflicts)
        metrics.EVENTS.labels("archive", "message_id_reused").inc(self._sink.reused - self._reused)
        metrics.EVENTS.labels("archive", "too_old").inc(self._sink.too_old - self._too_old)
        if self._sink.reused > self._reused:
            log.warning("message ids reused", messages=self._sink.reused - self._reused, query="see docs/history.md")
        self._conflicts, self._reused, self._too_old = self._sink.conflicts, self._sink.reused, self._sink.too_old


def _take_members(record: Record, writes: Writes) -> None:
    """The members of a conversation; none after a tombstone. What is not readable, or has another conversation's key, is left out: stage
    route reads the same record and refuses it."""
    key = record.key or b""
    try:
        if record.value is None:
            members = MembersRow(*named_in(key.decode()), record.partition, (), None)
        else:
            found = codec.decode(record.value, Conversation)
            if key_of(found) != key:
                return
            members = MembersRow(
                found.tenant_id,
                found.conversation_id,
                record.partition,
                tuple(dict.fromkeys(found.members)),
                found.updated_at,
            )
    except (codec.CodecError, UnicodeDecodeError):
        return
    before = writes.members.get(key)
    if (
        before is None
        or before.members_at is None
        or members.members_at is None
        or members.members_at >= before.members_at
    ):
        writes.members[key] = members
