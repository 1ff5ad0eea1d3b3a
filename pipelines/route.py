"""Stage route: turns each produced message into a sequenced message and its deliveries.

In: messages, conversation-inbound, conversations, and a mirror of contacts. Out: conversation-log, deliveries.<channel>, all to the
conversation's home partition. Guaranteed: a message (tenant, conversation, message id) is accepted once within the dedupe window. The
sequence numbers of a conversation are 1, 2, 3 and so on, without gaps, in the order of the topic. A message is accepted or refused as a
whole. A user is never unknown if the contact was produced before the message. Records of one tenant never affect messages of another.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pipelines import erasing
from pipelines.contacts import contact_in
from pipelines.engine.kafka_sizes import TURN_BYTES
from pipelines.engine.poison import TooLarge, raised_where
from pipelines.engine.stage import Decision, Inputs, Mirrored, Output, Record, Refusal, Source, Stage, Tables, View
from pipelines.holding import Holding
from pipelines.recipients import NotKnownYet, People, Reachable, RecipientRefused, Recipients
from schemas import codec
from schemas.accounts import NONE_LISTED, Accounts
from schemas.ids import LONGEST_CONVERSATION
from schemas.keys import DEFAULT_TENANT, key_of, shown
from schemas.message_times import DAY_MS, time_contradiction
from schemas.message_validation import contradiction
from schemas.partitions import home_partition
from schemas.records import Contact, Conversation, Delivery, DeliveryRef, Direction, Message, SequencedMessage
from tables import seen as seen_table
from tables.conversations import CONVERSATIONS, Members
from tables.held import HELD
from tables.layout import Layout
from tables.seen import SEEN, Seen
from tables.sequences import SEQUENCES, Sequence
from tables.table import StoreFailed, Table

MAX_RECORD_BYTES = 1_000_000
MAX_OUTPUT_BYTES = 16 << 20  # of all outputs of one message
# Of a delivery and its entry in the conversation log, besides the content of the message: ids, addresses, keys.
_BYTES_A_RECIPIENT = 1024
EXPIRED_PER_TURN = 2000
LONGEST_KEY = 64 + 1 + LONGEST_CONVERSATION  # bytes: tenant, slash, conversation id
# The direction of a topic's messages. `inbound`: of messages that an older release has held.
DIRECTIONS = {
    "messages": Direction.OUTBOUND,
    "conversation-inbound": Direction.INBOUND,
    "inbound": Direction.INBOUND,
}
HELD_OUTPUT_BYTES = 16 << 20  # of outputs of held messages in one turn; the rest follows in the next turn
CONTACTS = Mirrored("contacts", contact_in)


@dataclass(slots=True)
class State:
    """One partition of route."""

    partition: int
    seen: Table[Seen]
    sequences: Table[Sequence]
    conversations: Table[Members]
    holding: Holding


@dataclass(slots=True)
class RouteTurn:
    """One decision while it is being made."""

    state: State
    contacts: View[Contact]
    now: int
    decision: Decision = field(default_factory=Decision)
    output_bytes: int = 0
    _counted: int = 0  # outputs in `output_bytes`

    def check_size(self) -> None:
        """Raises TooLarge as soon as the outputs exceed TURN_BYTES: the engine then decides on fewer records."""
        outputs = self.decision.outputs
        self.output_bytes += sum(len(output.value or b"") for output in outputs[self._counted :])
        self._counted = len(outputs)
        if self.output_bytes > TURN_BYTES:
            raise TooLarge(f"{self.output_bytes} bytes of outputs: a turn may make {TURN_BYTES}", together=True)

    def refuse(self, record: Record, error: codec.CodecError | RecipientRefused) -> None:
        tenant_id = error.tenant_id if isinstance(error, RecipientRefused) else DEFAULT_TENANT
        self.decision.refusals.append(Refusal(record, error.cause, str(error), tenant_id))


class Route(Stage[State]):
    """`channels` are the configured channels; `accounts` maps accounts to tenants; a message may be scheduled up to `schedule_ms` ahead,
    and a repeated message id counts as a duplicate for `dedupe_ms`. No method blocks or does I/O; all run on the worker's event loop."""

    name = "route"
    sources = (
        Source("conversations", first=True, compacted=True),
        Source("conversation-inbound"),
        Source("messages"),
        Source(erasing.TOPIC),
    )
    tables: ClassVar[tuple[Layout[Any], ...]] = (SEEN, SEQUENCES, CONVERSATIONS, HELD)
    mirrored = (CONTACTS,)

    def __init__(
        self,
        *,
        partitions: int,
        dedupe_ms: int,
        channels: Mapping[str, Reachable],
        accounts: Accounts = NONE_LISTED,
        schedule_ms: int = 35 * DAY_MS,
    ) -> None:
        self._partitions = partitions
        self._dedupe_ms = dedupe_ms
        self._schedule_ms = schedule_ms
        self._channels = channels
        self._recipients = Recipients(channels, accounts)

    def open(self, partition: int, tables: Tables) -> State:
        """Derives the queues of held messages from table `held`."""
        holding = Holding(tables["held"], partition, CONTACTS.topic)
        return State(partition, tables["seen"], tables["sequences"], tables["conversations"], holding)

    def next_due(self, state: State) -> int | None:
        if state.holding.is_due():
            return 0
        oldest = state.seen.oldest()
        return None if oldest is None else oldest + self._dedupe_ms

    def takes(self, topic: str, state: State) -> bool:
        """False for messages while the partition holds as many as it may; they wait in Kafka."""
        return topic in {"conversations", erasing.TOPIC} or state.holding.has_room()

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:
        """Takes conversations, then held messages whose contact is certain now, then new messages.

        Reads the view of contacts; reads and writes tables `seen`, `sequences`, `conversations` and `held`. Asks for a call when a held
        message needs the end of contacts. A refused record changes no table. Raises TooLarge when the turn's outputs are too large
        together, and StoreFailed when a table's store fails."""
        turn = RouteTurn(state, inputs.views[CONTACTS.topic], now)
        decision = turn.decision
        for result in inputs.results:
            state.holding.answered(result)
        for record in inputs.records:
            if record.topic == "conversations":  # members before messages
                self._take(self._take_conversation, record, turn)
        self._decide_held(turn)
        for record in inputs.records:
            if record.topic == erasing.TOPIC:
                self._take(_take_erasure, record, turn)
            elif record.topic != "conversations":
                self._take(self._take_message, record, turn)
        call = state.holding.ask(closing=inputs.closing)
        if call is not None:
            decision.calls.append(call)
        self._expire(state, now)
        return decision

    def _take(self, step: Callable[[Record, RouteTurn], None], record: Record, turn: RouteTurn) -> None:
        try:
            step(record, turn)
        except (codec.CodecError, RecipientRefused) as error:
            turn.refuse(record, error)
        turn.check_size()

    def _decide_held(self, turn: RouteTurn) -> None:
        """Decides on held messages. If one raises, it is refused here: the engine would blame a record of this turn."""
        holding, before = turn.state.holding, turn.output_bytes
        while turn.output_bytes - before < HELD_OUTPUT_BYTES and (waiting := holding.next()) is not None:
            record = waiting.record
            try:
                self._accept(record, _message_in(record), turn, certain=waiting.certain)
            except NotKnownYet:
                holding.keep(waiting)
                continue
            except (codec.CodecError, RecipientRefused) as error:
                turn.refuse(record, error)
            except StoreFailed:
                raise
            except Exception as error:  # noqa: BLE001  # a bug on this message
                refusal = Refusal(record, "decision_failed", raised_where(error), waiting.row.tenant_id)
                turn.decision.refusals.append(refusal)
            holding.release(waiting)
            turn.check_size()

    def _take_conversation(self, record: Record, turn: RouteTurn) -> None:
        conversations = turn.state.conversations
        if record.key and not record.value:
            _check_tombstone(record.key)
            if not self._rerouted(record, record.key, turn):
                conversations.delete(record.key)
            return
        conversation = codec.decode(record.value, Conversation)
        key = key_of(conversation)
        if record.key != key:
            detail = f"the record is of conversation {shown(key)}: set its key to that, not to {shown(record.key)}"
            raise RecipientRefused("wrong_key", detail, conversation.tenant_id)
        if not self._rerouted(record, key, turn):
            conversations.put(key, Members(conversation.tenant_id, conversation.members, conversation.updated_at))

    def _take_message(self, record: Record, turn: RouteTurn) -> None:
        """Decides on a new message, or holds it: because its contact is not known yet, or behind a held one of its conversation."""
        message = _message_in(record)
        holding, key = turn.state.holding, key_of(message)
        if not holding.is_waiting(key):
            try:
                self._accept(record, message, turn)
            except NotKnownYet:
                pass
            else:
                return
        turn.decision.count("held")
        holding.hold(record, message.tenant_id, key)

    def _accept(self, record: Record, message: Message, turn: RouteTurn, *, certain: bool = False) -> None:
        """Accepts the message. Raises RecipientRefused or NotKnownYet before it changes a table or the decision."""
        try:
            self._route(record, message, turn, certain=certain)
        except RecipientRefused as error:
            error.tenant_id = message.tenant_id
            raise

    def _route(self, record: Record, message: Message, turn: RouteTurn, *, certain: bool) -> None:
        state, decision, now = turn.state, turn.decision, turn.now
        if message.direction is not DIRECTIONS[record.topic]:
            raise RecipientRefused(
                "inbound_not_allowed",
                f"a message of direction {message.direction} on topic {record.topic}: applications produce OUTBOUND messages to messages, "
                "stage match produces INBOUND messages to conversation-inbound",
            )
        key = key_of(message)
        if self._rerouted(record, key, turn):
            return
        seen_key, digest = seen_table.key(message), seen_table.digest(message)
        before = state.seen.get(seen_key)
        if before is not None and now - before.accepted_at < self._dedupe_ms:
            if before.digest != digest:
                raise RecipientRefused(
                    "message_id_conflict",
                    f"message id {message.message_id!r} was accepted in this conversation with another content: give every message its own "
                    "id",
                )
            decision.count("duplicate")
            return
        wrong = time_contradiction(message.not_before, message.expires_at, now, self._schedule_ms)
        if wrong is not None:
            raise RecipientRefused("invalid_time", wrong)
        refs = self._recipients.of(message, state.conversations.get(key), People(turn.contacts, certain))
        _check_outputs(message, len(refs), len(record.value or b""))
        last = state.sequences.get(key)
        seq = 1 if last is None else last.seq + 1
        sequenced, deliveries = _sequence(message, refs, state.partition, seq, now)
        for delivery in deliveries:
            rejected = self._channels[delivery.channel].check(delivery)
            if rejected is not None:
                raise RecipientRefused("content_not_supported", f"{delivery.channel}: {rejected.reason}")
        logged = codec.encode(sequenced)
        _check_size(logged)  # with many recipients it is larger than the message
        home, origin = state.partition, f"{record.topic} {record.partition} {record.offset}"
        outputs = [
            Output(f"deliveries.{d.channel}", key, codec.encode(d), home, content=d, origin=origin) for d in deliveries
        ]
        state.sequences.put(key, Sequence(seq))
        state.seen.put(seen_key, Seen(digest, now))
        decision.count("accepted")
        decision.count("deliveries", len(deliveries))
        decision.outputs.append(Output("conversation-log", key, logged, home, content=sequenced, origin=origin))
        decision.outputs += outputs

    def _rerouted(self, record: Record, key: bytes, turn: RouteTurn) -> bool:
        """Whether the record is in the wrong partition; then it is produced again to its home partition. A conversation that is known here
        stays here."""
        state = turn.state
        if key in state.sequences or key in state.conversations:
            return False
        home = home_partition(key, self._partitions)
        if home == state.partition:
            return False
        turn.decision.outputs.append(Output(record.topic, key, record.value, home, record.headers))
        turn.decision.count("rerouted")
        return True

    def _expire(self, state: State, now: int) -> None:
        for key in state.seen.expired(now - self._dedupe_ms, EXPIRED_PER_TURN):
            state.seen.delete(key)


def _take_erasure(record: Record, turn: RouteTurn) -> None:
    if (erasure := erasing.erasure_in(record, turn.decision)) is not None:
        erasing.from_route(erasure, turn.state, turn.decision)


def _message_in(record: Record) -> Message:
    if not record.key:
        raise RecipientRefused("no_key", "the record has no key: set it to the key of its conversation")
    _check_size(record.value or b"")
    message = codec.decode(record.value, Message)
    if message.direction is Direction.OUTBOUND:  # inbound messages are kept as they are
        found = contradiction(message.kind, message.text, message.content)
        if found is not None:
            raise RecipientRefused("contradictory_content", found)
    return message


def _check_tombstone(key: bytes) -> None:
    """Raises RecipientRefused for a key that cannot be a conversation's. The key of a tombstone deletes a row, or is produced again."""
    if len(key) > LONGEST_KEY:
        raise RecipientRefused("field_out_of_limits", f"the key has {len(key)} bytes: no conversation has such a key")
    try:
        key.decode()
    except UnicodeDecodeError:
        raise RecipientRefused(
            "field_out_of_limits", f"the key {shown(key)} is not UTF-8: no conversation has such a key"
        ) from None


def _check_size(value: bytes) -> None:
    if len(value) > MAX_RECORD_BYTES:
        raise RecipientRefused(
            "message_too_large", f"{len(value)} bytes: a message may have at most {MAX_RECORD_BYTES}"
        )


def _check_outputs(message: Message, recipients: int, size: int) -> None:
    """Refuses a message whose outputs would exceed MAX_OUTPUT_BYTES, before they are made. `size` is that of the record, in bytes."""
    if recipients * (size + _BYTES_A_RECIPIENT) <= MAX_OUTPUT_BYTES:
        return
    content = len(codec.encode(dataclasses.replace(message, recipients=(), metadata={})))
    estimate = recipients * (content + _BYTES_A_RECIPIENT)
    if estimate > MAX_OUTPUT_BYTES:
        raise RecipientRefused(
            "message_too_large",
            f"{content} bytes to {recipients} recipients make about {estimate} bytes of deliveries: {MAX_OUTPUT_BYTES} are allowed, "
            "send it to fewer recipients at once, or send a shorter link",
        )


def _sequence(
    message: Message, refs: list[DeliveryRef], partition: int, seq: int, now: int
) -> tuple[SequencedMessage, list[Delivery]]:
    sequenced = SequencedMessage(
        tenant_id=message.tenant_id,
        message_id=message.message_id,
        conversation_id=message.conversation_id,
        home_partition=partition,
        seq=seq,
        direction=message.direction,
        sender=message.sender,
        kind=message.kind,
        text=message.text,
        requested_at=message.requested_at,
        accepted_at=now,
        metadata=message.metadata,
        deliveries=tuple(refs),
        content=message.content,
        not_before=message.not_before or None,
    )
    deliveries = [
        Delivery(
            tenant_id=message.tenant_id,
            delivery_id=ref.delivery_id,
            message_id=message.message_id,
            conversation_id=message.conversation_id,
            home_partition=partition,
            seq=seq,
            channel=ref.channel,
            account=ref.account,
            recipient=ref.recipient,
            address=ref.address,
            kind=message.kind,
            text=message.text,
            not_before=message.not_before or None,
            expires_at=message.expires_at or None,
            requested_at=message.requested_at,
            accepted_at=now,
            content=message.content,
        )
        for ref in refs
    ]
    return sequenced, deliveries
