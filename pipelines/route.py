"""Stage route: what applications produce becomes a sequenced message and its deliveries.

In: messages, inbound, conversations (and contacts, mirrored whole). Out: conversation-log, deliveries.<channel>, all to the
conversation's home partition. Guaranteed: a message (tenant, conversation, message id) is accepted once in the dedupe window, sequences of
a conversation are 1, 2, 3 and so on without gaps, in the order of the topic; what cannot be accepted is refused whole, and nothing of it
goes out; no tenant's records change what becomes of another's.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from pipelines.engine.mirror import Mirror
from pipelines.engine.poison import TooLarge
from pipelines.engine.sizes import TURN_BYTES
from pipelines.engine.stage import Decision, Inputs, Output, Record, Refusal, Source, Stage, Tables
from schemas import codec, ids
from schemas.accounts import NONE_LISTED, Accounts
from schemas.ids import LONGEST_CONVERSATION
from schemas.keys import DEFAULT_TENANT, contact_key, key_of, shown
from schemas.outcomes import Rejected
from schemas.partitions import home_partition
from schemas.records import (
    Contact,
    Conversation,
    Delivery,
    DeliveryRef,
    Direction,
    Message,
    Recipient,
    SequencedMessage,
)
from schemas.sense import contradiction
from schemas.times import DAY_MS, misfit
from tables import seen as seen_table
from tables.conversations import CONVERSATIONS, Members
from tables.layout import Layout
from tables.seen import SEEN, Seen
from tables.sequences import SEQUENCES, Sequence
from tables.table import Table

MAX_RECORD_BYTES = 1_000_000
MAX_OUTPUT_BYTES = 16 << 20  # of all that one message makes
# Of a delivery and its line in the log, beside what the message says: ids, addresses, keys.
_BYTES_A_RECIPIENT = 1024
EXPIRED_PER_TURN = 2000
LONGEST_KEY = 64 + 1 + LONGEST_CONVERSATION  # bytes: a tenant, a slash, an id
DIRECTIONS = {"messages": Direction.OUTBOUND, "inbound": Direction.INBOUND}  # what each topic carries

Check = Callable[[Delivery], Rejected | None]


class Refused(Exception):
    """Why a record is not accepted: a cause of schemas/causes.py and a sentence; `tenant_id` is whose it is, once that is known."""

    def __init__(self, cause: str, detail: str, tenant_id: str = DEFAULT_TENANT) -> None:
        super().__init__(detail)
        self.cause = cause
        self.tenant_id = tenant_id


class Channel(NamedTuple):
    """What route must know of a channel: our configured account on it, and whether it could ever take a delivery."""

    account: str
    check: Check


@dataclass(slots=True)
class State:
    """One partition of route."""

    partition: int
    seen: Table[Seen]
    sequences: Table[Sequence]
    conversations: Table[Members]


class Route(Stage[State]):
    """`contacts` finds a person by contact_key; `channels` are those that are configured; `accounts` says whose each account is, and
    `schedule_ms` how far ahead a message may be timed."""

    name = "route"
    sources = (Source("conversations", first=True, compacted=True), Source("inbound"), Source("messages"))
    tables: ClassVar[tuple[Layout[Any], ...]] = (SEEN, SEQUENCES, CONVERSATIONS)

    def __init__(
        self,
        *,
        partitions: int,
        dedupe_ms: int,
        channels: Mapping[str, Channel],
        contacts: Mirror[Contact] | Mapping[bytes, Contact],
        accounts: Accounts = NONE_LISTED,
        schedule_ms: int = 35 * DAY_MS,
    ) -> None:
        self._partitions = partitions
        self._dedupe_ms = dedupe_ms
        self._schedule_ms = schedule_ms
        self._channels = channels
        self._accounts = accounts
        self._contacts = contacts

    async def start(self) -> None:
        if isinstance(self._contacts, Mirror):
            await asyncio.to_thread(self._contacts.start)

    async def stop(self) -> None:
        if isinstance(self._contacts, Mirror):
            self._contacts.stop()

    def open(self, partition: int, tables: Tables) -> State:
        return State(partition, tables["seen"], tables["sequences"], tables["conversations"])

    def next_due(self, state: State) -> int | None:
        oldest = state.seen.oldest()
        return None if oldest is None else oldest + self._dedupe_ms

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:
        decision = Decision()
        told = made = 0  # outputs counted, and their bytes
        for record in sorted(
            inputs.records, key=lambda r: r.topic != "conversations"
        ):  # stable: members before messages
            try:
                if record.topic == "conversations":
                    self._remember(record, state, decision)
                else:
                    self._accept(record, state, decision, now)
            except codec.CodecError as error:
                decision.refusals.append(Refusal(record, error.cause, str(error)))
            except Refused as error:
                decision.refusals.append(Refusal(record, error.cause, str(error), error.tenant_id))
            made += sum(len(output.value or b"") for output in decision.outputs[told:])
            told = len(decision.outputs)
            if made > TURN_BYTES:  # told now, before memory has grown: the engine comes again with fewer records
                raise TooLarge(f"{made} bytes of outputs: a turn may make {TURN_BYTES}", together=True)
        self._expire(state, now)
        return decision

    def _remember(self, record: Record, state: State, decision: Decision) -> None:
        if record.key and not record.value:
            _check_tombstone(record.key)
            if not self._sent_home(record, record.key, state, decision):
                state.conversations.delete(record.key)
            return
        conversation = codec.decode(record.value, Conversation)
        key = key_of(conversation)
        if record.key != key:
            detail = f"the record is of conversation {shown(key)}: set its key to that, not to {shown(record.key)}"
            raise Refused("wrong_key", detail, conversation.tenant_id)
        if not self._sent_home(record, key, state, decision):
            state.conversations.put(key, Members(conversation.tenant_id, conversation.members, conversation.updated_at))

    def _accept(self, record: Record, state: State, decision: Decision, now: int) -> None:
        message = _message_in(record)
        try:
            self._take(record, message, state, decision, now)
        except Refused as error:
            error.tenant_id = message.tenant_id
            raise

    def _take(self, record: Record, message: Message, state: State, decision: Decision, now: int) -> None:
        if message.direction is not DIRECTIONS[record.topic]:
            raise Refused(
                "inbound_not_allowed",
                f"a message of direction {message.direction} on topic {record.topic}: applications produce OUTBOUND ones to messages, the "
                "gateway INBOUND ones to inbound",
            )
        key = key_of(message)
        if self._sent_home(record, key, state, decision):
            return
        seen_key, digest = seen_table.key(message), seen_table.digest(message)
        before = state.seen.get(seen_key)
        if before is not None and now - before.accepted_at < self._dedupe_ms:
            if before.digest != digest:
                raise Refused(
                    "message_id_conflict",
                    f"message id {message.message_id!r} was accepted in this conversation with another content: give every message an id "
                    "of its own",
                )
            decision.count("duplicate")
            return
        wrong = misfit(message.not_before, message.expires_at, now, self._schedule_ms)
        if wrong is not None:
            raise Refused("invalid_time", wrong)
        refs = self._refs(message, state, now)
        _check_outputs(message, len(refs), len(record.value or b""))
        last = state.sequences.get(key)
        seq = 1 if last is None else last.seq + 1
        sequenced, deliveries = _sequence(message, refs, state.partition, seq, now)
        for delivery in deliveries:
            rejected = self._channels[delivery.channel].check(delivery)
            if rejected is not None:
                raise Refused("content_not_supported", f"{delivery.channel}: {rejected.reason}")
        logged = codec.encode(sequenced)
        _check_size(logged)  # many recipients make it larger than the message was
        state.sequences.put(key, Sequence(seq))
        state.seen.put(seen_key, Seen(digest, now))
        decision.count("accepted")
        decision.count("deliveries", len(deliveries))
        origin = f"{record.topic} {record.partition} {record.offset}"
        home = state.partition
        decision.outputs.append(Output("conversation-log", key, logged, home, content=sequenced, origin=origin))
        decision.outputs += [
            Output(f"deliveries.{d.channel}", key, codec.encode(d), home, content=d, origin=origin) for d in deliveries
        ]

    def _sent_home(self, record: Record, key: bytes, state: State, decision: Decision) -> bool:
        """Whether the record was in the wrong partition and goes home; a conversation known here is at home."""
        if key in state.sequences or key in state.conversations:
            return False
        home = home_partition(key, self._partitions)
        if home == state.partition:
            return False
        decision.outputs.append(Output(record.topic, key, record.value, home, record.headers))
        decision.count("rerouted")
        return True

    def _refs(self, message: Message, state: State, now: int) -> list[DeliveryRef]:
        """Every recipient as an address on a channel; an inbound message has none."""
        if message.direction is Direction.INBOUND:
            return []
        recipients = message.recipients
        if not recipients:
            members = state.conversations.get(key_of(message))
            if members is None or not members.user_ids:
                raise Refused(
                    "no_recipient",
                    f"no recipient given and conversation {message.conversation_id!r} has no members: name recipients, or produce the "
                    "conversation to topic conversations first",
                )
            recipients = tuple(Recipient(user_id=user_id) for user_id in members.user_ids)
        found = {ref.delivery_id: ref for ref in (self._ref(message, recipient, now) for recipient in recipients)}
        return list(found.values())

    def _ref(self, message: Message, recipient: Recipient, now: int) -> DeliveryRef:
        name, address, account = recipient.channel, recipient.address, recipient.account
        if not address:
            name, address, account = self._look_up(message.tenant_id, recipient, now)
        channel = self._channels.get(name or "")
        if name is None or channel is None:
            raise Refused(
                "unknown_channel", f"channel {name!r} is not configured: use one of {', '.join(sorted(self._channels))}"
            )
        who = recipient.user_id or address
        return DeliveryRef(
            delivery_id=delivery_id(message, who, name, address),
            channel=name,
            account=self._account(message.tenant_id, name, account, channel.account),
            recipient=who,
            address=address,
        )

    def _account(self, tenant_id: str, channel: str, wanted: str | None, shared: str) -> str:
        """The account to send with: the wanted one where the tenant may use it, else the tenant's own or the shared one."""
        if not wanted:
            found = self._accounts.account_for(tenant_id, channel, shared)
            if found is None:
                raise Refused(
                    "account_not_yours",
                    f"tenant {tenant_id} has no account on {channel}, and the configured one is another's: list one in CHAT4ALL_ACCOUNTS",
                )
            return found
        if not self._accounts.may_use(tenant_id, channel, wanted, shared):
            raise Refused(
                "account_not_yours",
                f"account {wanted[:40]!r} on {channel} is not one of tenant {tenant_id}: leave it out, or list it in CHAT4ALL_ACCOUNTS",
            )
        return wanted

    def _look_up(self, tenant_id: str, recipient: Recipient, now: int) -> tuple[str, str, str | None]:
        """(channel, address, account) of a user id: the wanted channel, else the first of the person's preference."""
        if not recipient.user_id:
            raise Refused("no_recipient", "a recipient has neither an address nor a user id: give one of them")
        key = contact_key(tenant_id, recipient.user_id).encode()
        contact = self._contacts.get(key)
        if contact is None and isinstance(self._contacts, Mirror):
            self._contacts.await_end(now)
            contact = self._contacts.get(key)
        if contact is None:
            raise Refused(
                "unknown_user", f"user id {recipient.user_id!r} is in no contact: produce it to topic contacts first"
            )
        for option in contact.addresses:
            wanted = option.channel == recipient.channel if recipient.channel else option.channel in self._channels
            if wanted and option.channel not in contact.opt_outs:
                return option.channel, option.address, option.account
        raise Refused(
            "unreachable_user",
            f"user id {recipient.user_id!r} has no address on {recipient.channel or 'any channel we have'}",
        )

    def _expire(self, state: State, now: int) -> None:
        for key in state.seen.expired(now - self._dedupe_ms, EXPIRED_PER_TURN):
            state.seen.delete(key)


def delivery_id(message: Message, recipient: str, channel: str, address: str) -> str:
    """Deterministic: the same message to the same recipient is the same delivery, however often it is decided."""
    parts = (message.tenant_id, message.conversation_id, message.message_id, recipient, channel, address, "0")
    return ids.digest(parts, 16).hex()


def _message_in(record: Record) -> Message:
    if not record.key:
        raise Refused("no_key", "the record has no key: set it to the conversation's")
    _check_size(record.value or b"")
    message = codec.decode(record.value, Message)
    if message.direction is Direction.OUTBOUND:  # what people write to us is kept as it is
        found = contradiction(message.kind, message.text, message.content)
        if found is not None:
            raise Refused("contradictory_content", found)
    return message


def _check_tombstone(key: bytes) -> None:
    """A key that could be a conversation's: a row is deleted by it, and it may go home."""
    if len(key) > LONGEST_KEY:
        raise Refused("field_out_of_limits", f"the key has {len(key)} bytes: no conversation has such a key")
    try:
        key.decode()
    except UnicodeDecodeError:
        raise Refused(
            "field_out_of_limits", f"the key {shown(key)} is not UTF-8: no conversation has such a key"
        ) from None


def _check_size(value: bytes) -> None:
    if len(value) > MAX_RECORD_BYTES:
        raise Refused("message_too_large", f"{len(value)} bytes: a message may have {MAX_RECORD_BYTES}")


def _check_outputs(message: Message, recipients: int, size: int) -> None:
    """Refuses, before any of it is made, a message whose outputs are out of all proportion. `size` is the whole record's."""
    if recipients * (size + _BYTES_A_RECIPIENT) <= MAX_OUTPUT_BYTES:
        return
    said = len(codec.encode(dataclasses.replace(message, recipients=(), metadata={})))
    estimate = recipients * (said + _BYTES_A_RECIPIENT)
    if estimate > MAX_OUTPUT_BYTES:
        raise Refused(
            "message_too_large",
            f"{said} bytes to {recipients} recipients make about {estimate} bytes of deliveries: {MAX_OUTPUT_BYTES} are allowed, "
            "send it to fewer at once, or a link that is shorter",
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
