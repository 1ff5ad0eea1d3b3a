"""Ids that hold an address of an erased person, and what stands in their place.

Enters: ids of events, of messages that a person wrote, and of the conversation that a person began. Leaves: the ids without the address.
Guaranteed: pure; the same id always becomes the same one, so that a replay meets the row that it made; replacing twice changes nothing.

Three ids are made from an address: the event id of a receipt and the id of a message from a person have the provider's id in them, which on
Telegram and WhatsApp holds the address; the conversation that a person began has the address itself (schemas/ids.py).
"""

import hashlib
from dataclasses import replace
from typing import Any, TypeVar

from schemas.records import CHANNELS, Conversation, Cursor, DeliveryState, Direction, SequencedMessage
from sinks.erased_people import Erased, person_digest

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


def masked_ids(record: R, before: R, erased: Erased) -> R:
    """A record that `Erased.blanked` made of `before`, without the ids that hold an address. `erased` must know the conversation's
    `beginner` too."""
    changed: Any = record
    match record, before:
        case DeliveryState(), DeliveryState():
            if record != before:
                event = erased_id(record.tenant_id, record.delivery_id, record.event_id)
                changed = replace(record, event_id=event, provider_message_id=None)
            return _renamed(changed, erased, record.accepted_at)  # type: ignore[no-any-return]  # the record's class
        case SequencedMessage(), SequencedMessage():
            if record.sender != before.sender and record.direction is Direction.INBOUND:
                changed = replace(record, message_id=erased_id(record.tenant_id, "", record.message_id))
            return _renamed(changed, erased, record.accepted_at)  # type: ignore[no-any-return]  # the same
        case Cursor(), Cursor():  # track renames the member at once, and the conversation never
            at = 0 if record.member.startswith(WORD) else record.changed_at
            return _renamed(changed, erased, at)  # type: ignore[no-any-return]  # the same
        case Conversation(), Conversation():
            return _renamed(changed, erased, record.updated_at)  # type: ignore[no-any-return]  # the same
    return record


def _renamed(record: Any, erased: Erased, at: int) -> Any:
    digest = beginner(record.tenant_id, record.conversation_id)
    word = None if digest is None else erased.name_of(record.tenant_id, [digest], at)
    return (
        record if word is None else replace(record, conversation_id=conversation_without(record.conversation_id, word))
    )
