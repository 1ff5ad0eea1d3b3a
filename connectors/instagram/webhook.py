"""Reads a webhook of the Instagram Messaging API: echoes, reads and reactions as receipts, and messages of people.

What enters: the raw body of a request whose signature was checked. What leaves: WebhookItems. Guaranteed: pure; raises nothing; every item
is read separately: one that cannot be read, or that we do not use, is named in `unrecognised` and the others stay.

What each receipt means. SENT: an echo, the account sent this message (we did, or a person in the app). READ: `read` names the last message
that the person has seen; stage track concludes that they saw the earlier messages of the thread too. READ, inferred: the person reacted or
replied to the message. There is no DELIVERED. Our account is the entry's id, because `read` may have neither sender nor recipient.
https://developers.facebook.com/docs/messenger-platform/instagram/features/webhook
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from connectors.base import Inbound, WebhookItems
from connectors.json_fields import Node, Unexpected, child, decode, items, node, optional_text, text, whole, word
from connectors.webhook_limits import trimmed_to_limits
from schemas.content import Content, Media
from schemas.records import Receipt, ReceiptStatus

CHANNEL = "instagram"
_LATEST = 253_402_300_800  # the end of the year 9999, in seconds
_MILLISECONDS = 100_000_000_000  # a lower time is in seconds (of 1970 to 5138), as Meta's test button sends it
_MEDIA = {"image": "image", "video": "video", "audio": "audio", "file": "document"}
# Fields of `changes` with the items of `messaging`: some apps of Instagram Login get them in this form.
_FIELDS = ("messages", "messaging_seen", "message_reactions", "messaging_postbacks", "standby")


class _Reading:
    """One request being read."""

    def __init__(self, received_at: int) -> None:
        self.received_at = received_at
        self.account = ""
        self.receipts: list[Receipt] = []
        self.inbound: list[Inbound] = []
        self.unrecognised: list[str] = []
        self.notices: list[str] = []

    def body(self, body: object) -> None:
        for entry in self._listed(body, "body", "entry"):
            try:
                self.account = text(node(entry, "entry"), "id")
            except Unexpected as why:
                self.unrecognised.append(f"entry: {why}")
                continue
            for name in ("messaging", "standby"):  # standby: another app controls the thread, the items are the same
                for item in self._listed(entry, "entry", name):
                    self.item(item)
            for change in self._listed(entry, "entry", "changes"):
                self.change(change)

    def _listed(self, parent: object, name: str, field: str) -> list[object]:
        try:
            return items(node(parent, name), field)
        except Unexpected as why:
            self.unrecognised.append(f"{name}: {why}" if name != "body" else str(why))
            return []

    def change(self, change: object) -> None:
        field = change.get("field") if isinstance(change, dict) else None
        if isinstance(change, dict) and field in _FIELDS:
            self.item(change.get("value"))
        else:
            self.unrecognised.append(f"field {word(field)}")

    def item(self, item: object) -> None:
        try:
            found = node(item, "item")
            kind = next((kind for kind in _READ if kind in found), None)
            if kind is None:
                self.unrecognised.append(f"item of kind {_kind(found)}")
            else:
                _READ[kind](self, found, child(found, kind))
        except Unexpected as why:
            self.unrecognised.append(f"item: {why}")

    def message(self, item: Node, message: Node) -> None:
        mid, at = text(message, "mid"), _time(item)
        if message.get("is_echo") is True or _person(item, "sender") == self.account:
            self.receipt(mid, "sent", ReceiptStatus.SENT, at)
            return
        if message.get("is_deleted") is True:
            self.notices.append("a person took a message back")
            return
        kind, content = _content(message)
        self.inbound.append(self.written(item, mid, kind, optional_text(message, "text") or "", content))
        about = _replied(message)
        if about is not None and content is not None:
            self.receipt(about, "seen", ReceiptStatus.READ, at)

    def read(self, item: Node, read: Node) -> None:
        self.receipt(text(read, "mid"), "read", ReceiptStatus.READ, _time(item))

    def reaction(self, item: Node, reaction: Node) -> None:
        """A reaction: an inbound message without an id of its own, and a sign that the person saw our message."""
        mid, action, at = text(reaction, "mid"), text(reaction, "action"), _time(item)
        sender = text(child(item, "sender"), "id")
        if sender == self.account:
            self.notices.append("our account reacted")
            return
        emoji = ""
        if action == "react":
            emoji = optional_text(reaction, "emoji") or optional_text(reaction, "reaction") or ""
        identity = f"{mid}:{sender}:{word(action)}:{at}"
        content = Content(reply_to=mid, reaction=emoji)
        self.inbound.append(self.written(item, identity, "reaction", emoji, content))
        self.receipt(mid, "seen", ReceiptStatus.READ, at)

    def postback(self, item: Node, postback: Node) -> None:
        """A button or an ice breaker that a person pressed."""
        words = optional_text(postback, "title") or optional_text(postback, "payload") or ""
        self.inbound.append(self.written(item, text(postback, "mid"), "postback", words, None))

    def edit(self, _: Node, edit: Node) -> None:
        text(edit, "mid")
        self.notices.append("a person changed a message")

    def written(self, item: Node, mid: str, kind: str, words: str, content: Content | None) -> Inbound:
        return Inbound(
            channel=CHANNEL,
            account=self.account,
            address=text(child(item, "sender"), "id"),
            provider_message_id=mid,
            kind=kind,
            text=words,
            at=_time(item),
            content=content,
        )

    def receipt(self, mid: str, name: str, status: ReceiptStatus, at: int) -> None:
        self.receipts.append(
            Receipt(
                event_id=f"instagram:{self.account}:{mid}:{name}",
                channel=CHANNEL,
                account=self.account,
                provider_message_id=mid,
                status=status,
                provider_at=at,
                received_at=self.received_at,
                inferred=name == "seen",
            )
        )


# Fields of an item and their readers. The first field that is present decides.
_READ: Mapping[str, Callable[[_Reading, Node, Node], None]] = MappingProxyType(
    {
        "message": _Reading.message,
        "read": _Reading.read,
        "reaction": _Reading.reaction,
        "postback": _Reading.postback,
        "message_edit": _Reading.edit,
    }
)


def read(body: bytes, received_at: int) -> WebhookItems:
    """The items of a request, in its order; `received_at` is Unix milliseconds. Raises nothing."""
    reading = _Reading(received_at)
    reading.body(decode(body))
    return trimmed_to_limits(
        WebhookItems(
            tuple(reading.receipts), tuple(reading.inbound), tuple(reading.unrecognised), tuple(reading.notices)
        )
    )


def _time(item: Node) -> int:
    """The item's time in Unix milliseconds."""
    at = whole(item, "timestamp")
    at = at * 1000 if at < _MILLISECONDS else at
    if not 0 <= at < _LATEST * 1000:
        raise Unexpected("timestamp is not a time")
    return at


def _person(item: Node, name: str) -> object:
    found = item.get(name)
    return found.get("id") if isinstance(found, dict) else None


def _kind(item: Node) -> str:
    """The name of an item's first field besides sender, recipient and time, for the log."""
    names = sorted(name for name in item if name not in ("sender", "recipient", "timestamp"))
    return word(names[0]) if names else "?"


def _replied(message: Node) -> str | None:
    """The message that a person replies to, unless it is their own. A reply to a story has another kind of id and is left out."""
    about = message.get("reply_to")
    if not isinstance(about, dict) or about.get("is_self_reply") is True:
        return None
    return optional_text(about, "mid")


def _content(message: Node) -> tuple[str, Content | None]:
    """The kind of a message and what it has beyond its text. A part that cannot be read is left out, the message stays."""
    listed = message.get("attachments")
    attachments = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    kinds = [word(each.get("type")) for each in attachments]
    media = tuple(_media(_MEDIA[kind], each) for kind, each in zip(kinds, attachments, strict=True) if kind in _MEDIA)
    about = message.get("reply_to")
    content = Content(media=media, reply_to=optional_text(about, "mid") if isinstance(about, dict) else None)
    if message.get("is_unsupported") is True:
        kind = "unsupported"
    elif len(media) > 1:
        kind = "album"
    else:
        kind = _MEDIA.get(kinds[0], kinds[0]) if kinds else "text"
    return kind, None if content == Content() else content


def _media(kind: str, attachment: Node) -> Media:
    payload = attachment.get("payload")
    return Media(kind, url=optional_text(payload, "url") if isinstance(payload, dict) else None)
