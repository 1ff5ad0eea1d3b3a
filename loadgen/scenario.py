"""The people, messages and duplicates of a load. Pure: the same seed and run id make the same load.

Enters: a seed, a run id (part of every id, so that runs do not mix), and shares. Leaves: contacts, group conversations, and the messages in
the order in which to produce them. Guaranteed: a conversation is always with the same person or group; every person has exactly one
address, so the deliveries of a message are known in advance; a text starts with "[<conversation_id>/<message_id>] ", which the simulators
log.
"""

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from schemas.records import Address, Contact, Conversation, Recipient

DUPLICATE_DISTANCE = 500  # a duplicate follows within this many messages
_PHRASES = ("order shipped", "obrigado ✓", "amanhã às 10h", "your code is ready", "🌻", "até logo", "see you", "olá")


@dataclass(frozen=True, slots=True)
class Person:
    """One recipient. If `user_id` is None, messages name the address itself."""

    channel: str
    address: str
    user_id: str | None


@dataclass(frozen=True, slots=True)
class Planned:
    """One message to produce. `recipients` is empty for a group: its members are in the topic conversations."""

    message_id: str
    conversation_id: str
    recipients: tuple[Recipient, ...]
    text: str
    expected: tuple[tuple[str, str], ...]  # (channel, address) of every delivery that must result
    is_duplicate: bool = False
    comes_again: bool = False  # a duplicate of this one follows


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The options of a load. `group_share` and `duplicate_share` are shares of messages, 0 to 1. Half of the conversations with one person
    name an address, the other half a user id from contacts."""

    run: str
    seed: int
    count: int
    channels: Sequence[str]
    conversations: int = 100
    group_share: float = 0.0
    groups: int = 1
    group_size: int = 20
    duplicate_share: float = 0.0

    def person(self, number: int) -> Person:
        """The person of the `number`-th conversation with one person."""
        channel = self.channels[number % len(self.channels)]
        is_known = (number // len(self.channels)) % 2 == 1
        return Person(channel, _address(channel, number), f"{self.run}-u{number}" if is_known else None)

    def members(self, group: int) -> tuple[Person, ...]:
        first = self.conversations + group * self.group_size
        return tuple(
            Person(
                channel := self.channels[i % len(self.channels)],
                _address(channel, first + i),
                f"{self.run}-u{first + i}",
            )
            for i in range(self.group_size)
        )

    def contacts(self, now: int) -> Iterator[Contact]:
        """All people who are addressed by user id. `now` is in Unix milliseconds."""
        people = [self.person(number) for number in range(self.conversations)]
        for group in self._group_numbers():
            people += self.members(group)
        for person in people:
            if person.user_id is not None:
                addresses = (Address(channel=person.channel, address=person.address),)
                yield Contact(user_id=person.user_id, addresses=addresses, updated_at=now)

    def group_conversations(self, now: int) -> Iterator[Conversation]:
        for group in self._group_numbers():
            members = tuple(person.user_id or "" for person in self.members(group))
            yield Conversation(conversation_id=self._group_id(group), members=members, updated_at=now)

    def messages(self) -> Iterator[Planned]:
        """All messages in the order in which to produce them. A duplicate comes after its original."""
        draw = random.Random(self.seed)  # noqa: S311  # must be repeatable
        again: list[tuple[int, int, Planned]] = []
        for number in range(self.count):
            while again and again[0][0] <= number:
                yield heapq.heappop(again)[2]
            planned = self._message(number, draw)
            if draw.random() < self.duplicate_share:
                due = number + draw.randint(1, DUPLICATE_DISTANCE)
                heapq.heappush(again, (due, number, replace(planned, is_duplicate=True)))
                planned = replace(planned, comes_again=True)
            yield planned
        while again:
            yield heapq.heappop(again)[2]

    def _message(self, number: int, draw: random.Random) -> Planned:
        message_id = f"{self.run}-m{number:07d}"
        words = " ".join(draw.choices(_PHRASES, k=draw.randint(1, 12)))
        if draw.random() < self.group_share:
            group = draw.randrange(self.groups)
            expected = tuple((person.channel, person.address) for person in self.members(group))
            return Planned(
                message_id, self._group_id(group), (), _text(self._group_id(group), message_id, words), expected
            )
        chosen = draw.randrange(self.conversations)
        person = self.person(chosen)
        if person.user_id is None:
            recipient = Recipient(channel=person.channel, address=person.address)
        else:
            recipient = Recipient(user_id=person.user_id)
        expected = ((person.channel, person.address),)
        conversation_id = f"{self.run}-c{chosen}"
        return Planned(message_id, conversation_id, (recipient,), _text(conversation_id, message_id, words), expected)

    def _group_numbers(self) -> range:
        return range(self.groups if self.group_share > 0 else 0)

    def _group_id(self, group: int) -> str:
        return f"{self.run}-g{group}"


def _text(conversation_id: str, message_id: str, words: str) -> str:
    """A text that names its message. The ids of a load contain no slash."""
    return f"[{conversation_id}/{message_id}] {words}"


# Formats of addresses on channels without phone numbers: a chat id, a scoped id, a user id.
_ADDRESSES = {"telegram": "5{:08d}", "instagram": "17841400{:09d}", "internal": "person-{}"}


def _address(channel: str, number: int) -> str:
    """An invented address in the provider's format; by default a phone number of the fictional 555 exchange."""
    return _ADDRESSES.get(channel, "1555{:07d}").format(number)
