"""The tables with which stage match finds the conversation of what a person wrote. All keys begin with the person (`ChannelPerson`).

`threads` holds the conversations of a person. `answerable` holds our messages that a reply may name, `received` the person's messages that
were decided, so that a repeated webhook is not decided again. `held_inbound` holds messages that wait for a binding. All functions are
pure.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from schemas.keys import quoted
from schemas.person_addresses import one_form
from schemas.records import Binding, InboundMessage, Preference
from tables.framed_layout import FramedLayout
from tables.list_layout import ListLayout

MOST_CONVERSATIONS = 16  # of one tenant with one person; those with the oldest messages are forgotten
MOST_TENANTS = 16  # of one person's conversations; more than one only on an account that tenants share
MOST_HELD_OF_A_PERSON = 64
MOST_HELD_INBOUND = 10_000  # rows of a partition
MOST_HELD_INBOUND_BYTES = 16 << 20  # the same limit for the bytes of their records
EXACT_MS = 60_000  # among several conversations, the time of the latest message is never older than this


class ChannelPerson(NamedTuple):
    """A person as one of our accounts knows them."""

    channel: str
    account: str
    address: str

    @classmethod
    def of(cls, record: InboundMessage | Preference) -> "ChannelPerson":
        return cls(record.channel, record.account, record.address)

    @property
    def key(self) -> str:
        """Key of table `threads`: channel, account and address with colons between them, each percent-quoted, so that no two people share
        one. Every form of an address has the same key."""
        address = one_form(self.channel, self.address)
        return f"{quoted(self.channel)}:{quoted(self.account)}:{quoted(address)}"

    def of_tenant(self, tenant_id: str) -> str:
        """The person as a tenant knows them: whose messages are decided in order."""
        return f"{quoted(tenant_id)}/{self.key}"

    def answerable(self, provider_message_id: str) -> bytes:
        """Key of table `answerable`."""
        return f"{self.key}/{quoted(provider_message_id)}".encode()

    def received(self, tenant_id: str, provider_message_id: str) -> bytes:
        """Key of table `received`. Clients of the internal channel choose their ids, so the tenant is part of it."""
        return f"{self.of_tenant(tenant_id)}/{quoted(provider_message_id)}".encode()


class KnownConversation(NamedTuple):
    """One conversation of a person."""

    tenant_id: str
    conversation_id: str
    home_partition: int
    latest_at: (
        int  # when its latest message with the person was sent or received, Unix milliseconds (`met` says how exactly)
    )


class KnownThreads(NamedTuple):
    """The conversations of one person."""

    # those of all tenants together, the one with the latest message first
    conversations: tuple[KnownConversation, ...] = ()
    opened_at: int = 0  # when the person wrote last, on a channel with a service window, Unix milliseconds; 0: never

    @property
    def latest_at(self) -> int:
        """When the last thing happened, Unix milliseconds."""
        return max(self.opened_at, self.conversations[0].latest_at if self.conversations else 0)

    def latest_of(self, tenant_id: str) -> KnownConversation | None:
        """The tenant's conversation with the latest message."""
        return next((each for each in self.conversations if each.tenant_id == tenant_id), None)

    def homes(self) -> dict[int, KnownConversation]:
        """The home partitions of the conversations, each with its latest conversation."""
        return {each.home_partition: each for each in reversed(self.conversations)}


class Answerable(NamedTuple):
    """A message of ours to a person."""

    tenant_id: str
    conversation_id: str
    home_partition: int
    message_id: str | None  # None in bindings made before version 3
    bound_at: int  # when the provider answered, Unix milliseconds; the row expires CHAT4ALL_BINDING_DAYS later


class ReceivedMessage(NamedTuple):
    """A message of a person, with the conversation that was found for it."""

    tenant_id: str
    conversation_id: str
    home_partition: int
    message_id: str
    decided_at: int  # Unix milliseconds; the row expires CHAT4ALL_DEDUPE_DAYS later


@dataclass(frozen=True, slots=True)
class HeldInbound:
    """A message of a person that waits: for the binding of the message it answers, or behind one that does."""

    number: int  # counts the held messages of the partition, in the order in which they came
    since: int  # when it came, Unix milliseconds; it waits CHAT4ALL_REPLY_WAIT_SECONDS from here
    size: int  # bytes of its record
    message: InboundMessage


def met(threads: KnownThreads, found: KnownConversation, rest_ms: int = 0) -> KnownThreads:
    """The row after a message of the conversation at `found.latest_at`; the same row if it says so nearly: the conversation is the tenant's
    latest already, and its time is less than `rest_ms` behind (less than EXACT_MS if the tenant has several)."""
    others = [each for each in threads.conversations if each[:2] != found[:2]]
    if len(others) < len(threads.conversations):
        known = next(each for each in threads.conversations if each[:2] == found[:2])
        rest = min(rest_ms, EXACT_MS) if any(each.tenant_id == found.tenant_id for each in others) else rest_ms
        late = found.latest_at - known.latest_at
        is_latest = threads.latest_of(found.tenant_id) is known
        if known.home_partition == found.home_partition and (late <= 0 or (is_latest and late < rest)):
            return threads
        found = found._replace(latest_at=max(found.latest_at, known.latest_at))
    ordered = sorted((found, *others), key=lambda each: -each.latest_at)
    return threads._replace(conversations=tuple(_bounded(ordered)))


def _bounded(conversations: list[KnownConversation]) -> Iterator[KnownConversation]:
    number: Counter[str] = Counter()
    for each in conversations:
        number[each.tenant_id] += 1
        if number[each.tenant_id] <= MOST_CONVERSATIONS and len(number) <= MOST_TENANTS:
            yield each


def known_in(binding: Binding, now: int) -> KnownConversation:
    """The conversation of a binding, with its time, which is never after `now`."""
    return KnownConversation(
        binding.tenant_id, binding.conversation_id, binding.home_partition, min(binding.bound_at, now)
    )


class ThreadsLayout(ListLayout[KnownThreads]):
    """Rows of threads: their conversations become KnownConversations again."""

    def decode(self, value: bytes) -> KnownThreads:
        row = super().decode(value)
        return row._replace(conversations=tuple(KnownConversation(*each) for each in row.conversations))

    def as_json(self, row: KnownThreads) -> Any:
        return row._asdict() | {"conversations": [each._asdict() for each in row.conversations]}


THREADS = ThreadsLayout("threads", KnownThreads, time="latest_at")
ANSWERABLE = ListLayout("answerable", Answerable, time="bound_at")
RECEIVED = ListLayout("received", ReceivedMessage, time="decided_at")
HELD_INBOUND = FramedLayout("held_inbound", HeldInbound, framed="message")
