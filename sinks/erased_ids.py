"""Ids that hold an address of an erased person, and what stands in their place.

Enters: ids of events, of messages that a person wrote, and of the conversation that a person began. Leaves: the ids without the address.
Guaranteed: pure; the same id always becomes the same one, so that a replay meets the row that it made; replacing twice changes nothing.

Three ids are made from an address: the event id of a receipt and the id of a message from a person have the provider's id in them, which on
Telegram and WhatsApp holds the address; the conversation that a person began has the address itself (schemas/ids.py).
"""

import hashlib
from dataclasses import replace
from typing import Any, TypeVar

from schemas.records import CHANNELS, Cursor, DeliveryState, Direction, SequencedMessage
from sinks.erased_people import Erased, digests_of, person_digest
from sinks.staging import MembersRow

R = TypeVar("R")
WORD = "erased:"


def erased_id(tenant: str, delivery_id: str, text: str) -> str:
    """The id of an event of a delivery, or of a message (`delivery_id` is empty then), without the provider's id. An id that is made from
    the delivery's holds no address and stays."""
    if text.startswith(WORD) or (delivery_id and text.startswith(f"{delivery_id}:")):
        return text
    whole = f"{tenant}\x00{text}".encode(errors="surrogatepass")
    return f"{WORD}{hashlib.sha256(whole).hexdigest()[:16]}"


def beginner(tenant: str, conversation_id: str) -> str | None:
    """The digest of the person who began a conversation, from its id; None if the id names nobody."""
    channel, _, rest = conversation_id.partition(":")
    _, colon, address = rest.partition(":")
    return person_digest(tenant, channel, address) if colon and address and channel in CHANNELS else None


def conversation_without(conversation_id: str, word: str) -> str:
    """The id of a conversation that a person began, with the word in place of the address."""
    channel, account, _ = conversation_id.split(":", 2)
    return f"{channel}:{account}:{word}"


def all_digests_of(record: Any) -> list[str]:
    """The digests of everybody whom a record names, also in the id of its conversation."""
    digest = beginner(record.tenant_id, getattr(record, "conversation_id", ""))
    return digests_of(record) if digest is None else [*digests_of(record), digest]


def without_person(record: R, erased: Erased) -> R:
    """The record as PostgreSQL may store it: blanked, and without the ids that hold an address. The same object if nobody in it was
    erased. `erased` must know `all_digests_of` the record."""
    if not erased:
        return record
    blanked = erased.blanked(record)
    changed: Any = blanked
    at: int | None = None
    match blanked:
        case DeliveryState():
            at = blanked.accepted_at
            if blanked is not record:
                event = erased_id(blanked.tenant_id, blanked.delivery_id, blanked.event_id)
                changed = replace(blanked, event_id=event, provider_message_id=None)
        case SequencedMessage():
            at = blanked.accepted_at
            if blanked.direction is Direction.INBOUND and blanked.sender.startswith(WORD):
                changed = replace(blanked, message_id=erased_id(blanked.tenant_id, "", blanked.message_id))
        case Cursor():  # track renames the member at once, and the conversation never
            at = 0 if blanked.member.startswith(WORD) else blanked.changed_at
        case MembersRow():
            at = blanked.members_at or 0
    return changed if at is None else _renamed(changed, erased, at)  # type: ignore[no-any-return]  # the record's class


def _renamed(record: Any, erased: Erased, at: int) -> Any:
    digest = beginner(record.tenant_id, record.conversation_id)
    word = None if digest is None else erased.name_of(record.tenant_id, [digest], at)
    if word is None:
        return record
    renamed = conversation_without(record.conversation_id, word)
    if isinstance(record, MembersRow):
        return record._replace(conversation_id=renamed)
    return replace(record, conversation_id=renamed)
