"""Reads an update of Telegram's webhook: what a person wrote, and signs that they saw a message of ours.

What enters: the JSON of one update and our bot's id. What leaves: inbound messages with their content, READ receipts, whether a person
blocked the bot, notices, and the names of items that we do not use. Telegram has no receipts: a reply to our message, a press of its button
or a reaction to it shows that a person saw it, so these receipts are marked `inferred`. Guaranteed: pure; raises nothing; a missing or
malformed field that is not needed is left out alone; no name or notice has an address or a text.
https://core.telegram.org/bots/api#update
"""

from collections.abc import Callable
from typing import Any

from connectors.base import Inbound, WebhookItems
from connectors.json_fields import (
    Node,
    Unexpected,
    child,
    node,
    number,
    optional_text,
    optional_whole,
    seconds_as_ms,
    whole,
    word,
)
from connectors.webhook_limits import trimmed_to_limits
from schemas.content import Content, Location, Media
from schemas.opt_out_policies import BLOCKED, UNBLOCKED
from schemas.records import Choice, Preference, Receipt, ReceiptStatus

CHANNEL = "telegram"
# Field of a person's message -> kind of medium. The first field that is present decides: an animation comes with a document too.
_MEDIA = {
    "photo": "image",
    "animation": "video",
    "document": "document",
    "video": "video",
    "audio": "audio",
    "voice": "audio",
    "sticker": "sticker",
    "video_note": "video",
}
_OTHERS = ("contact", "poll", "dice")
_MEMBERS = {"kicked": "shut out", "left": "left", "member": "let in", "administrator": "let in", "restricted": "let in"}


def provider_id(message: Node) -> str:
    """ "<chat>:<message_id>", because message_id is unique per chat only. Raises Unexpected."""
    return f"{whole(child(message, 'chat'), 'id')}:{whole(message, 'message_id')}"


def read(update: object, account: str, received_at: int) -> WebhookItems:
    """The items of one update; `account` is our bot's id, `received_at` Unix milliseconds. Raises nothing."""
    try:
        found = node(update, "update")
        kind = next((kind for kind in _READERS if kind in found), None)
        if kind is not None:
            return trimmed_to_limits(_READERS[kind](child(found, kind), account, received_at))
        names = sorted(name for name in found if name != "update_id")
        return WebhookItems(unrecognised=(f"update of kind {word(names[0]) if names else '?'}",))
    except Unexpected as why:
        return WebhookItems(unrecognised=(f"update: {why}",))


def _message(message: Node, account: str, received_at: int) -> WebhookItems:
    kind, content = _content(message)
    if kind is None:
        return WebhookItems(unrecognised=("message: no content a person writes",))
    at = seconds_as_ms(message, "date")
    inbound = Inbound(
        channel=CHANNEL,
        account=account,
        address=str(whole(child(message, "chat"), "id")),
        provider_message_id=provider_id(message),
        kind=kind,
        text=optional_text(message, "text") or optional_text(message, "caption") or "",
        at=at,
        content=content,
    )
    receipts, unrecognised = _seen_by_reply(message, account, at, received_at)
    return WebhookItems(receipts, (inbound,), unrecognised)


def _edited(message: Node, account: str, received_at: int) -> WebhookItems:
    """An edited message. The message itself came before, so it is not inbound a second time."""
    receipts, unrecognised = _seen_by_reply(message, account, received_at, received_at)
    return WebhookItems(receipts, unrecognised=unrecognised, notices=("a person edited a message",))


def _button(query: Node, account: str, received_at: int) -> WebhookItems:
    """A press of a button, which only our own messages have. A message that is too old to be included has the date 0."""
    message = query.get("message")
    is_old = isinstance(message, dict) and message.get("date") == 0
    if not is_old and not _is_ours(message, account):
        return WebhookItems(unrecognised=("callback_query: not on a message of ours",))
    return WebhookItems((_seen(node(message, "message"), account, received_at, received_at),))


def _reaction(reaction: Node, account: str, received_at: int) -> WebhookItems:
    """A reaction. The update does not name the message's author; a receipt for another author's message finds no delivery."""
    return WebhookItems((_seen(reaction, account, seconds_as_ms(reaction, "date"), received_at),))


def _member(change: Node, account: str, received_at: int) -> WebhookItems:
    """A change of our bot's membership in a chat. In a private chat, `kicked` means that the person blocked the bot."""
    chat, status = child(change, "chat"), child(change, "new_chat_member").get("status")
    name = _MEMBERS.get(status, word(status)) if isinstance(status, str) else "?"
    where = "a person" if chat.get("type") == "private" else "a chat"
    notices = (f"{where}: our bot: {name}",)
    if status not in _MEMBERS:
        return WebhookItems(notices=notices)
    address, at = str(whole(chat, "id")), seconds_as_ms(change, "date")
    is_out = status in ("kicked", "left")
    preference = Preference(
        event_id=f"telegram:{account}:{address}:{status}:{at}",
        channel=CHANNEL,
        account=account,
        address=address,
        choice=Choice.STOP if is_out else Choice.RESUME,
        reason=BLOCKED if is_out else UNBLOCKED,
        occurred_at=at,
        observed_at=received_at,
    )
    return WebhookItems(notices=notices, preferences=(preference,))


_READERS: dict[str, Callable[[Node, str, int], WebhookItems]] = {
    "message": _message,
    "edited_message": _edited,
    "callback_query": _button,
    "message_reaction": _reaction,
    "my_chat_member": _member,
}
KINDS = tuple(_READERS)  # of updates that are read


def _seen_by_reply(
    message: Node, account: str, at: int, received_at: int
) -> tuple[tuple[Receipt, ...], tuple[str, ...]]:
    replied = message.get("reply_to_message")
    if not _is_ours(replied, account):
        return (), ()
    try:
        return (_seen(node(replied, "reply_to_message"), account, at, received_at),), ()
    except Unexpected as why:
        return (), (f"reply: {why}",)


def _is_ours(message: object, account: str) -> bool:
    author: Any = message.get("from") if isinstance(message, dict) else None
    return isinstance(author, dict) and str(author.get("id")) == account


def _seen(message: Node, account: str, at: int, received_at: int) -> Receipt:
    """A READ receipt: the person acted on this message. Inferred, because Telegram does not report reads."""
    name = provider_id(message)
    return Receipt(
        event_id=f"telegram:{account}:{name}:read",
        channel=CHANNEL,
        account=account,
        provider_message_id=name,
        status=ReceiptStatus.READ,
        provider_at=at,
        received_at=received_at,
        inferred=True,
    )


def _content(message: Node) -> tuple[str | None, Content | None]:
    """Kind and content of a person's message. The kind is None for a service message, the content None for a plain text."""
    reply_to = _replied(message)
    if "text" in message:
        return "text", Content(reply_to=reply_to) if reply_to else None
    field = next((field for field in _MEDIA if field in message), None)
    if field is not None:
        media = _medium(message[field], _MEDIA[field])
        return _MEDIA[field], Content(media=(media,) if media else (), reply_to=reply_to)
    if "location" in message:
        return "location", Content(location=_location(message), reply_to=reply_to)
    other = next((kind for kind in _OTHERS if kind in message), None)
    return other, Content(reply_to=reply_to) if reply_to else None


def _replied(message: Node) -> str | None:
    try:
        return provider_id(child(message, "reply_to_message"))
    except Unexpected:
        return None


def _medium(found: Any, kind: str) -> Media | None:
    """A file by its id, which is valid for this bot only. Of a photo's sizes the last is the largest."""
    file = found[-1] if isinstance(found, list) and found else found
    file_id = optional_text(file, "file_id") if isinstance(file, dict) else None
    if file_id is None:
        return None
    return Media(
        kind=kind,
        provider_media_id=file_id,
        mime_type=optional_text(file, "mime_type") or "",
        filename=optional_text(file, "file_name"),
        size=optional_whole(file, "file_size"),
    )


def _location(message: Node) -> Location | None:
    venue = message.get("venue")
    try:
        place = child(message, "location")
        latitude, longitude = number(place, "latitude"), number(place, "longitude")
    except Unexpected:
        return None
    named: Node = venue if isinstance(venue, dict) else {}
    return Location(latitude, longitude, optional_text(named, "title") or "", optional_text(named, "address") or "")
