"""Who was erased (relation `erased_people`), and how what is met again of them is blanked.

Enters: a tenant, a channel and an address; records on their way into PostgreSQL. Leaves: a person's digest and the word that stands for
them; the records with that word and without text. Guaranteed: nobody can be read from a digest; every form of an address has one digest;
blanking twice changes nothing; what was accepted after the erasure stays as it is. Nothing here does I/O.

Who erases inserts into `erased_people` and commits; then locks all rows of `sink_offsets` (`for update`), which waits for the running
transactions of the sinks; and then changes the rows. A sink reads `erased_people` after it has locked its rows of `sink_offsets`, so that
it either has committed before the rows are changed, or knows the person.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from schemas.person_addresses import one_form
from schemas.records import (
    CHANNELS,
    Binding,
    Contact,
    Conversation,
    Cursor,
    CursorReport,
    Delivery,
    DeliveryRef,
    DeliveryState,
    Erasure,
    InboundMessage,
    Message,
    Preference,
    SequencedMessage,
    Suppression,
    Window,
)
from sinks.staging import Members

R = TypeVar("R")

IS_ANYBODY_ERASED = "select exists (select from erased_people)"
# Parameters: tenants and digests, two lists of one length. Rows: tenant, digest, erased_at in Unix milliseconds.
FIND_ERASED = (
    "select tenant_id, person, floor(extract(epoch from erased_at) * 1000)::bigint from erased_people"
    " where (tenant_id, person) in (select * from unnest(%s::text[], %s::text[]))"
)


def person_digest(tenant: str, channel: str, address: str) -> str:
    """What `erased_people.person` holds: SHA-256, 64 hex digits, of tenant, NUL, channel, NUL, address. A user id has an empty channel."""
    return hashlib.sha256(
        "\x00".join((tenant, channel, one_form(channel, address))).encode(errors="surrogatepass")
    ).hexdigest()


def erased_name(digest: str) -> str:
    """What stands in the place of the person's address, user id or name: `erased:` and 16 hex digits."""
    return f"erased:{digest[:16]}"


def _anywhere(tenant: str, name: str) -> list[str]:
    """The digests of a sender or a member, which may be a user id or an address on any channel."""
    return [person_digest(tenant, channel, name) for channel in ("", *CHANNELS)]


def _of_delivery(tenant: str, delivery: DeliveryRef | DeliveryState | Delivery) -> list[str]:
    return [person_digest(tenant, "", delivery.recipient), person_digest(tenant, delivery.channel, delivery.address)]


def digests_of(record: Any) -> list[str]:  # noqa: PLR0911  # one branch for each kind of record
    """The digests of everybody whom a record names; empty for a record that names nobody."""
    match record:
        case SequencedMessage():
            recipients = [digest for each in record.deliveries for digest in _of_delivery(record.tenant_id, each)]
            return [*_anywhere(record.tenant_id, record.sender), *recipients]
        case DeliveryState() | Delivery():
            return _of_delivery(record.tenant_id, record)
        case Cursor():
            return _anywhere(record.tenant_id, record.member)
        case Members():
            return [digest for member in record.members for digest in _anywhere(record.tenant_id, member)]
        case Suppression() | InboundMessage() | Preference() | Window() | CursorReport() | Binding():
            address = record.address  # a Binding may have none
            return [] if address is None else [person_digest(record.tenant_id, record.channel, address)]
        case Conversation():
            return [digest for member in record.members for digest in _anywhere(record.tenant_id, member)]
        case Message():
            named = (name for each in record.recipients for name in (each.user_id, each.address) if name)
            return [digest for name in (record.sender, *named) for digest in _anywhere(record.tenant_id, name)]
        case Erasure():
            addresses = [person_digest(record.tenant_id, each.channel, each.address) for each in record.addresses]
            return [*_anywhere(record.tenant_id, record.person), *addresses]
        case Contact():
            addresses = [person_digest(record.tenant_id, each.channel, each.address) for each in record.addresses]
            return [person_digest(record.tenant_id, "", record.user_id), *addresses]
    return []


class Erased:
    """The erased people among those whom some records name. Immutable; `at` is (tenant, digest) -> when, in Unix milliseconds."""

    def __init__(self, at: Mapping[tuple[str, str], int]) -> None:
        self._at = dict(at)

    def __bool__(self) -> bool:
        return bool(self._at)

    def name_of(self, tenant: str, digests: Iterable[str], at: int) -> str | None:
        """The word for the first of these people who was erased at this time or later; None if none was."""
        return next((erased_name(digest) for digest, _ in self._among(tenant, digests, at)), None)

    def _among(self, tenant: str, digests: Iterable[str], at: int) -> Iterator[tuple[str, int]]:
        """The digests of those who were erased at the time `at` or later, and when."""
        for digest in digests:
            erased_at = self._at.get((tenant, digest))
            if erased_at is not None and at <= erased_at:
                yield digest, erased_at

    def blanked(self, record: R) -> R:
        """The record as PostgreSQL may store it: the same object if nobody in it was erased. A message loses its text when its sender or
        any of its recipients was erased. Contacts are not changed: see `erased_at`."""
        changed: Any = record
        if not self._at:
            return record
        match record:
            case SequencedMessage():
                if self.name_of(record.tenant_id, digests_of(record), record.accepted_at):
                    sender = self.name_of(
                        record.tenant_id, _anywhere(record.tenant_id, record.sender), record.accepted_at
                    )
                    changed = replace(record, sender=sender or record.sender, text="", content=None, metadata={})
            case DeliveryState():
                if name := self.name_of(record.tenant_id, digests_of(record), record.accepted_at):
                    # a provider's text may quote an address
                    changed = replace(record, recipient=name, address=name, reason=None)
            case Cursor():
                if name := self.name_of(record.tenant_id, digests_of(record), record.changed_at):
                    changed = replace(record, member=name)
            case Members(members_at=int(at)):
                names = [
                    self.name_of(record.tenant_id, _anywhere(record.tenant_id, each), at) for each in record.members
                ]
                changed = record._replace(
                    members=tuple(name or each for name, each in zip(names, record.members, strict=True))
                )
            case Suppression():
                if name := self.name_of(record.tenant_id, digests_of(record), record.changed_at):
                    changed = replace(record, address=name)
        return changed  # type: ignore[no-any-return]  # each branch keeps the record's class

    def erased_at(self, record: Any, at: int) -> int | None:
        """When somebody was erased whom the record names, if that was at the time `at` or later; else None."""
        if not self._at:
            return None
        return next((when for _, when in self._among(record.tenant_id, digests_of(record), at)), None)
