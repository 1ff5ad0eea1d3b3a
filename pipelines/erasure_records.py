"""The records of topic `erasures` for what an erasure found in PostgreSQL, and what stays in Kafka. Pure.

In: a person and batches of what was found. Out: records, each for the partition that holds the rows; the topics that keep data of people,
with their days. Guaranteed: every delivery and every provider's id that was found is in a record for each partition that may have a row of
it; no record is above its limits.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from schemas import codec
from schemas.catalog import TOPICS, Topic
from schemas.keys import conversation_key, key_of, person_key, provider_message_key
from schemas.partitions import home_partition
from schemas.records import Address, Erasure
from sinks.erasure import ErasureAction, FoundRows, ProviderMessage
from sinks.erasure_search import ErasedPerson

T = TypeVar("T")
MOST_ADDRESSES = 32  # of a record
MOST_IDS = 500
TOPIC = "erasures"
# Topics without a text, an address or a provider's id of a message.
_NOBODY = frozenset({"accounts"})


class ErasureRecord(NamedTuple):
    """A record to produce to topic `erasures`."""

    key: bytes
    value: bytes
    partition: int


class KeptTopic(NamedTuple):
    """A topic that keeps data of people. `days` is None for a compacted topic: Kafka keeps an old record until it compacts the topic."""

    topic: str
    days: int | None


class ErasureRecords:
    """The records of one erasure. `partitions` is the number of partitions of the topic."""

    def __init__(self, person: ErasedPerson, action: ErasureAction, *, partitions: int, keep_opt_outs: bool) -> None:
        self._person = person
        self._action = action
        self._partitions = partitions
        self._keep_opt_outs = keep_opt_outs

    def of_person(self) -> Iterator[ErasureRecord]:
        """For match: what it knows of each address with an account."""
        for each in self._person.addresses:
            if each.account:
                yield self._of_address(each, self._home(each), ())

    def of(self, found: Sequence[FoundRows]) -> Iterator[ErasureRecord]:
        """For route, send and track: each conversation. For match: each message, where its receipts and its answers arrive."""
        for each in found:
            home = each.home_partition
            if home is None:
                home = home_partition(conversation_key(self._person.tenant_id, each.conversation_id), self._partitions)
            ids = list(_parts(each.delivery_ids, MOST_IDS)) or [()]
            addresses = list(_parts(self._person.addresses, MOST_ADDRESSES)) or [()]
            for number in range(max(len(ids), len(addresses))):
                yield self._record(
                    each.conversation_id,
                    home,
                    addresses[min(number, len(addresses) - 1)],
                    delivery_ids=ids[number] if number < len(ids) else (),
                )
        yield from self._of_messages(message for each in found for message in each.messages)

    def _of_messages(self, messages: Iterable[ProviderMessage]) -> Iterator[ErasureRecord]:
        places: dict[tuple[Address, int], dict[str, None]] = {}
        for each in messages:
            address = Address(channel=each.channel, address=each.address, account=each.account)
            key = provider_message_key(each.channel, each.account, each.provider_message_id)
            for partition in {self._home(address), home_partition(key, self._partitions)}:
                places.setdefault((address, partition), {})[each.provider_message_id] = None
        for (address, partition), ids in places.items():
            for some in _parts(list(ids), MOST_IDS):
                yield self._of_address(address, partition, some)

    def _home(self, address: Address) -> int:
        return home_partition(person_key(address.channel, address.account or "", address.address), self._partitions)

    def _of_address(self, address: Address, partition: int, ids: tuple[str, ...]) -> ErasureRecord:
        return self._record("", partition, (address,), provider_message_ids=ids)

    def _record(
        self,
        conversation_id: str,
        partition: int,
        addresses: tuple[Address, ...],
        *,
        delivery_ids: tuple[str, ...] = (),
        provider_message_ids: tuple[str, ...] = (),
    ) -> ErasureRecord:
        erasure = Erasure(
            tenant_id=self._person.tenant_id,
            erasure_id=self._action.action_id,
            conversation_id=conversation_id,
            home_partition=partition,
            person=self._person.user_id,
            addresses=addresses,
            delivery_ids=delivery_ids,
            provider_message_ids=provider_message_ids,
            keep_opt_outs=self._keep_opt_outs,
            requested_at=self._action.began_at,
        )
        return ErasureRecord(key_of(erasure), codec.encode(erasure), partition)


def kept(topics: Iterable[Topic] = TOPICS.values()) -> list[KeptTopic]:
    """The topics that keep data of people, those that keep it longest first."""
    found = [KeptTopic(each.name, each.retention_days) for each in topics if each.name not in _NOBODY]
    return sorted(found, key=lambda each: (-(each.days or 1 << 30), each.topic))


def _parts(items: Sequence[T], size: int) -> Iterator[tuple[T, ...]]:
    return (tuple(items[i : i + size]) for i in range(0, len(items), size))
