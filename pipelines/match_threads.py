"""Finds the conversation of what a person wrote, for stage match.

In: bindings under the key of their recipient, and inbound messages. Out: messages to conversation-inbound, and service windows, both to the
home partitions of conversations. The conversation is that of the message which the person answers; else the tenant's latest one with the
person, within a window; else the person's own one, whose id is made from account and address. Guaranteed: however often a webhook is
repeated, through whichever gateway, it becomes one message in one conversation; the messages of a person stay in order. No I/O.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pipelines.engine.stage import Decision, Output, Record, Tables
from pipelines.match_opt_out import OptOut, OptOutTurn
from pipelines.match_queues import ReplyQueues
from schemas import codec
from schemas.ids import inbound_conversation_id, inbound_message_id, shown_id
from schemas.keys import DEFAULT_TENANT, conversation_key, key_of
from schemas.message_times import DAY_MS, happened_at, is_plausible
from schemas.partitions import home_partition
from schemas.records import Binding, Direction, Erasure, InboundMessage, Message, Window
from tables.suppressed import SuppressedAddress
from tables.table import Table
from tables.threads import Answerable, ChannelPerson, KnownConversation, KnownThreads, ReceivedMessage, known_in, met

HOUR_MS = 3_600_000
EXPIRED_PER_TURN = 2000
DUE_PER_TURN = 500  # people whose waiting is over; each has at most MOST_HELD_OF_A_PERSON messages
REPLY_TO = "reply_to_message_id"  # the label of an inbound message with our id of the message that it answers


@dataclass(frozen=True, slots=True)
class ThreadLimits:
    """Durations in milliseconds. `service_windows`: channel -> how long an account may write freely after a person wrote to it."""

    window_ms: int = 72 * HOUR_MS  # a message that answers none belongs to the latest conversation of this time
    wait_ms: int = 5000  # how long a reply waits for the binding of what it answers
    dedupe_ms: int = 7 * DAY_MS  # how long a decided message is remembered
    service_windows: Mapping[str, int] = field(default_factory=dict)

    @property
    def rest_ms(self) -> int:
        """How far the time of a conversation may be behind in table `threads`, so that its row is not written for each message."""
        return self.window_ms // 8

    @property
    def kept_ms(self) -> int:
        """How long a row of table `threads` is needed after the last thing that happened."""
        return max(self.window_ms + self.rest_ms, *self.service_windows.values(), 0)


class _Answer(NamedTuple):
    """The message that a person answers. `found` is None if it is not known (yet), or belongs to another tenant (`is_foreign`)."""

    found: Answerable | ReceivedMessage | None
    is_foreign: bool = False


class PersonThreads:
    """The people of one partition. `partitions` is the number of partitions of a conversation's topics; a message of ours may be answered
    for `answer_ms`. `opt_out` gets each message once, when it is decided. Reads and writes tables `threads`, `answerable`, `received` and
    `held_inbound`. Methods run within `decide`."""

    def __init__(
        self, tables: Tables, limits: ThreadLimits, opt_out: OptOut, *, partitions: int, answer_ms: int
    ) -> None:
        self._limits = limits
        self._opt_out = opt_out
        self._suppressed: Table[SuppressedAddress] = tables["suppressed"]
        self._partitions = partitions
        self._answer_ms = answer_ms
        self._threads: Table[KnownThreads] = tables["threads"]
        self._answerable: Table[Answerable] = tables["answerable"]
        self._received: Table[ReceivedMessage] = tables["received"]
        self.queues = ReplyQueues(tables["held_inbound"], limits.wait_ms)
        self._answered: dict[str, None] = {}  # queues to look at again in this turn, in order

    def next_due(self) -> int | None:
        ends = (
            (self._threads.oldest(), self._limits.kept_ms),
            (self._answerable.oldest(), self._answer_ms),
            (self._received.oldest(), self._limits.dedupe_ms),
            (self.queues.next_due(), 0),
        )
        return min((at + kept_ms for at, kept_ms in ends if at is not None), default=None)

    # --- bindings -------------------------------------------------------------------------------------------------------

    def learn(self, binding: Binding, decision: Decision, now: int) -> None:
        """A message of ours went to the person: it can be answered, and its conversation may be the latest one."""
        person = ChannelPerson(binding.channel, binding.account, binding.address or "")
        row = Answerable(
            binding.tenant_id, binding.conversation_id, binding.home_partition, binding.message_id, binding.bound_at
        )
        self._answerable.put(person.answerable(binding.provider_message_id), row)
        for tenant in dict.fromkeys((binding.tenant_id, DEFAULT_TENANT)):
            if self.queues.is_waiting(queue := person.of_tenant(tenant)):
                self._answered[queue] = None
        before = self._threads.get(person.key.encode()) or KnownThreads()
        after = met(before, known_in(binding, now), self._limits.rest_ms)
        self._put(person, before, after, decision, now)

    # --- inbound messages -----------------------------------------------------------------------------------------------

    def take(self, record: Record, message: InboundMessage, decision: Decision, now: int) -> None:
        """Decides on the message, or lets it wait, or drops it because it came before."""
        person = ChannelPerson.of(message)
        queue = person.of_tenant(message.tenant_id)
        identity = message.provider_message_id
        if person.received(message.tenant_id, identity) in self._received or self.queues.holds(queue, identity):
            decision.count("duplicate")
            return
        if not is_plausible(message.provider_at, message.received_at):
            decision.count("implausible_time")
        must_wait = self._limits.wait_ms > 0 and self._is_open(person, message)
        if not must_wait and not self.queues.is_waiting(queue):
            self._decide(person, message, decision, now)
            return
        if self.queues.is_full():  # of other people's messages: this person waits no longer
            while (waiting := self.queues.first(queue)) is not None:
                self._end_waiting(queue, waiting.message, decision, now)
            decision.count("reply_not_awaited")
            self._decide(person, message, decision, now)
            return
        decision.count("reply_waits" if must_wait else "waits_behind_reply")
        self.queues.add(queue, message, len(record.value or b""), now)
        if self.queues.is_long(queue) and (waiting := self.queues.first(queue)) is not None:
            decision.count("reply_not_awaited")
            self._end_waiting(queue, waiting.message, decision, now)
            self._advance(queue, decision, now)

    def advance(self, decision: Decision, now: int) -> None:
        """Decides on messages that need not wait any more: what they answer is known now, or they have waited long enough."""
        for queue in [*self._answered, *self.queues.take_due(now, DUE_PER_TURN)]:
            self._advance(queue, decision, now)
        self._answered.clear()

    def expire(self, now: int) -> None:
        """Deletes rows that nobody needs any more."""
        for key in self._threads.expired(now - self._limits.kept_ms, EXPIRED_PER_TURN):
            self._threads.delete(key)
        for key in self._answerable.expired(now - self._answer_ms, EXPIRED_PER_TURN):
            self._answerable.delete(key)
        for key in self._received.expired(now - self._limits.dedupe_ms, EXPIRED_PER_TURN):
            self._received.delete(key)

    def forget(self, person: ChannelPerson, erasure: Erasure) -> int:
        """Deletes the tenant's rows of a person who is erased, those of messages by the ids that the record names; returns how many. On an
        account that tenants share, the other tenants' conversations stay."""
        tenant_id, erased = erasure.tenant_id, 0
        key = person.key.encode()
        row = self._threads.get(key)
        if row is not None:
            others = tuple(each for each in row.conversations if each.tenant_id != tenant_id)
            if others != row.conversations or not others:
                erased += 1
                if others:
                    self._threads.put(key, row._replace(conversations=others))
                else:
                    self._threads.delete(key)
        for provider_id in erasure.provider_message_ids:
            answerable = person.answerable(provider_id)
            found = self._answerable.get(answerable)
            if found is not None and found.tenant_id == tenant_id:
                self._answerable.delete(answerable)
                erased += 1
            for written_to in dict.fromkeys((tenant_id, DEFAULT_TENANT)):
                received = person.received(written_to, provider_id)
                wrote = self._received.get(received)
                if wrote is not None and wrote.tenant_id == tenant_id:
                    self._received.delete(received)
                    erased += 1
        return erased + self.queues.forget(person.of_tenant(tenant_id), erasure.requested_at)

    def _advance(self, queue: str, decision: Decision, now: int) -> None:
        while (waiting := self.queues.first(queue)) is not None:
            is_open = self._is_open(ChannelPerson.of(waiting.message), waiting.message)
            if is_open and not self.queues.has_waited(waiting, now):
                return
            self._end_waiting(queue, waiting.message, decision, now)

    def _end_waiting(self, queue: str, message: InboundMessage, decision: Decision, now: int) -> None:
        self.queues.take_first(queue)
        self._decide(ChannelPerson.of(message), message, decision, now)

    def _decide(self, person: ChannelPerson, message: InboundMessage, decision: Decision, now: int) -> None:
        before = self._threads.get(person.key.encode()) or KnownThreads()
        answer = self._answer_of(person, message)
        if answer.is_foreign:
            decision.count("reply_to_other_tenant")
        elif answer.found is None and _reply_to(message):
            decision.count("reply_not_found")
        conversation = self._conversation_of(message, answer, before, decision, now)
        produced = _message(person, message, conversation, answer)
        key, home = key_of(produced), conversation.home_partition
        decision.outputs.append(Output("conversation-inbound", key, codec.encode(produced), home, content=produced))
        self._received.put(
            person.received(message.tenant_id, message.provider_message_id),
            ReceivedMessage(
                conversation.tenant_id, conversation.conversation_id, home, produced.message_id, decided_at=now
            ),
        )
        self._opt_out.take_message(message, conversation, OptOutTurn(self._suppressed, decision, now))
        after = met(before, conversation, self._limits.rest_ms)
        if person.channel in self._limits.service_windows:
            wrote_at = happened_at(message.provider_at, message.received_at)
            after = after._replace(opened_at=max(before.opened_at, min(wrote_at, now)))
        self._put(person, before, after, decision, now)

    def _conversation_of(
        self, message: InboundMessage, answer: _Answer, threads: KnownThreads, decision: Decision, now: int
    ) -> KnownConversation:
        at = min(message.received_at, now)
        if answer.found is not None:
            decision.count("found_by_reply")
            found = answer.found
            return KnownConversation(found.tenant_id, found.conversation_id, found.home_partition, at)
        latest = threads.latest_of(message.tenant_id)
        if latest is not None and at - latest.latest_at < self._limits.window_ms + self._limits.rest_ms:
            decision.count("found_by_latest")
            return latest._replace(latest_at=max(at, latest.latest_at))
        decision.count("own_conversation")
        own = inbound_conversation_id(message.channel, message.account, message.address)
        home = home_partition(conversation_key(message.tenant_id, own), self._partitions)
        return KnownConversation(message.tenant_id, own, home, at)

    # --- what a message answers -----------------------------------------------------------------------------------------

    def _is_open(self, person: ChannelPerson, message: InboundMessage) -> bool:
        """Whether the message answers one that is not known yet."""
        answer = self._answer_of(person, message)
        return bool(_reply_to(message)) and answer.found is None and not answer.is_foreign

    def _answer_of(self, person: ChannelPerson, message: InboundMessage) -> _Answer:
        """What the message answers: a message of ours, or an earlier one of the person. On an account that tenants share, the answered
        message decides whose the answer is, as it does for receipts; else another tenant's message is not looked at."""
        reply_to = _reply_to(message)
        if not reply_to:
            return _Answer(None)
        found: Answerable | ReceivedMessage | None = self._answerable.get(person.answerable(reply_to))
        if found is None and message.channel == "internal":  # our clients know the delivery's id
            shown = shown_id(reply_to, message.tenant_id, message.address)
            found = self._answerable.get(person.answerable(shown))
        if found is not None and message.tenant_id not in (DEFAULT_TENANT, found.tenant_id):
            return _Answer(None, is_foreign=True)
        return _Answer(found or self._received.get(person.received(message.tenant_id, reply_to)))

    # --- rows and windows -----------------------------------------------------------------------------------------------

    def _put(
        self, person: ChannelPerson, before: KnownThreads, after: KnownThreads, decision: Decision, now: int
    ) -> None:
        """Writes the row if it has changed, and publishes the person's open window where it is not known."""
        if after is before or after == before:
            return
        self._threads.put(person.key.encode(), after)
        open_ms = self._limits.service_windows.get(person.channel, 0)
        if after.opened_at + open_ms <= now:
            return
        known = before.homes() if after.opened_at == before.opened_at else {}
        for home, conversation in after.homes().items():
            if home not in known:
                window = _window(person, conversation, after.opened_at, after.opened_at + open_ms)
                decision.outputs.append(Output("windows", key_of(window), codec.encode(window), home, content=window))
                decision.count("window_opened")


def _reply_to(message: InboundMessage) -> str | None:
    return None if message.content is None else message.content.reply_to


def _message(
    person: ChannelPerson, message: InboundMessage, conversation: KnownConversation, answer: _Answer
) -> Message:
    identity = message.provider_message_id
    if person.channel == "internal" and conversation.conversation_id != inbound_conversation_id(*person):
        # clients choose their ids, and in a group's conversation two people may choose the same
        identity = shown_id(identity, message.tenant_id, message.address)
    labels = {
        "channel": message.channel,
        "account": message.account,
        "provider_message_id": message.provider_message_id,
        "at": str(message.provider_at),
    }
    if answer.found is not None and answer.found.message_id:
        labels[REPLY_TO] = answer.found.message_id
    return Message(
        tenant_id=conversation.tenant_id,
        message_id=inbound_message_id(message.channel, message.account, identity),
        conversation_id=conversation.conversation_id,
        direction=Direction.INBOUND,
        sender=message.address,
        kind=message.kind,
        text=message.text,
        requested_at=message.received_at,
        metadata=labels,
        content=message.content,
    )


def _window(person: ChannelPerson, conversation: KnownConversation, opened_at: int, closes_at: int) -> Window:
    return Window(
        tenant_id=conversation.tenant_id,
        conversation_id=conversation.conversation_id,
        home_partition=conversation.home_partition,
        channel=person.channel,
        account=person.account,
        address=person.address,
        opened_at=opened_at,
        closes_at=closes_at,
    )
