"""What people write to a simulated WhatsApp number: every kind of message, sent to our webhook, and the window it opens.

What enters: POST /_control/inbound {"from", "text"} or {"from", "kind", "content"}, optionally with "reply_to", and POST
/_control/preferences {"from", "value"}. What leaves: a notice in Meta's form; its media can be downloaded. Guaranteed: the person's window
opens at that moment of the provider's clock.
https://developers.facebook.com/docs/whatsapp/cloud-api/webhooks/payload-examples
"""

import base64
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol

from simulators import whatsapp_bodies
from simulators.clock import Clock
from simulators.graph_api import GraphRefused
from simulators.provider import keys_of
from simulators.provider_limits import Windows
from simulators.webhook_sender import Notice, Webhooks
from simulators.whatsapp_media import INBOUND_DAYS, MediaApi
from simulators.whatsapp_statuses import DISPLAY_NUMBER, contact

_KEPT = 50_000
# The smallest files of each kind whose first bytes show their type.
_SAMPLES = {
    "image": ("image/jpeg", b"\xff\xd8\xff\xd9"),
    "sticker": ("image/webp", b"RIFF\x04\x00\x00\x00WEBP"),
    "audio": ("audio/ogg", b"OggS"),
    "video": ("video/mp4", b"\x00\x00\x00\x08ftyp"),
    "document": ("application/pdf", b"%PDF-1.4"),
}


class Number(Protocol):
    """The parts of the business number that the inbox uses."""

    clock: Clock
    windows: Windows
    media: MediaApi
    webhooks: Webhooks
    first: int

    def wamid(self, name: str) -> str:
        """An id that no other message has."""
        ...


class Inbox:
    """Messages of people to one number."""

    def __init__(self, number: Number) -> None:
        self._number = number
        self._written = 0
        self._stopped: set[str] = set()  # people who stopped marketing messages
        self._authors: OrderedDict[str, str] = OrderedDict()  # wamid -> author, for marking as read

    def write(self, wanted: Mapping[str, Any]) -> object:
        """Schedules one message; returns its id. Raises ValueError with a sentence."""
        keys_of(("from", "text", "kind", "content", "reply_to", "name"), wanted)
        author, kind, number = wanted.get("from"), wanted.get("kind", "text"), self._number
        if not (isinstance(author, str) and author and isinstance(kind, str)):
            raise ValueError('an inbound message needs "from" and "text", or "from", "kind" and "content"')
        self._written += 1
        wamid = number.wamid(f"in{number.first + self._written}")
        message: dict[str, Any] = {"from": author, "id": wamid, "timestamp": str(number.clock.seconds()), "type": kind}
        message |= self._content(kind, wanted)
        if wanted.get("reply_to") is not None and kind != "reaction":
            message["context"] = {"from": DISPLAY_NUMBER, "id": str(wanted["reply_to"])}
        number.windows.open(whatsapp_bodies.canonical(author), number.clock.now())
        self._authors[wamid] = author
        if len(self._authors) > _KEPT:
            self._authors.popitem(last=False)
        written = {"contacts": [contact(author, str(wanted.get("name", "Zoë 🌻")))], "messages": [message]}
        number.webhooks.schedule(Notice("inbound", wamid, written), 0.0)
        return {"id": wamid}

    def prefer(self, wanted: Mapping[str, Any]) -> object:
        """A person stops or resumes marketing messages in WhatsApp's settings: {"from", "value": "stop" or "resume"}. Until they resume,
        marketing templates to them fail with 131050. Raises ValueError with a sentence.

        https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/user_preferences
        """
        keys_of(("from", "value"), wanted)
        author, value, number = wanted.get("from"), wanted.get("value"), self._number
        if not (isinstance(author, str) and author and value in ("stop", "resume")):
            raise ValueError('a preference needs "from" and "value", which is stop or resume')
        wa_id = whatsapp_bodies.canonical(author)
        if value == "stop":
            self._stopped.add(wa_id)
        else:
            self._stopped.discard(wa_id)
        self._written += 1
        chosen = {
            "wa_id": wa_id,
            "detail": f"User requested to {value} marketing messages",
            "category": "marketing_messages",
            "value": value,
            "timestamp": number.clock.seconds(),
        }
        name = f"{wa_id}:{value}:{self._written}"
        said = {"contacts": [contact(wa_id)], "user_preferences": [chosen]}
        number.webhooks.schedule(Notice("preference", name, said), 0.0)
        return {"wa_id": wa_id}

    def has_stopped(self, wa_id: str) -> bool:
        """Whether the person wants no marketing messages."""
        return wa_id in self._stopped

    def author(self, wamid: str, *, is_strict: bool) -> str:
        """The author of a message. Raises GraphRefused for an unknown message when `is_strict`.

        Pass False while windows are off: people then get messages without having written one.
        """
        author = self._authors.get(wamid)
        if author is None and is_strict:
            raise GraphRefused(100, "Invalid parameter: message_id names no message received by this number")
        return author or ""

    def _content(self, kind: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        content = wanted.get("content", {})
        if not isinstance(content, dict):
            raise ValueError('"content" must be an object')  # noqa: TRY004  # answered with 400, as every ValueError
        match kind:
            case "text":
                text = wanted.get("text")
                if not isinstance(text, str):
                    raise ValueError('an inbound message needs "from" and "text", both texts')  # noqa: TRY004  # the same
                return {"text": {"body": text}}
            case "reaction":
                return {"reaction": {"message_id": str(wanted.get("reply_to", "")), "emoji": "👍"} | content}
            case "unsupported":
                error = {"code": 131051, "title": "Message type unknown", "message": "Message type unknown"}
                return {"errors": [error | {"error_data": {"details": "Message type is currently not supported."}}]}
        if kind in _SAMPLES:
            return {kind: self._media(kind, dict(content))}
        return {kind: content}

    def _media(self, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        """Stores the file of a message: `bytes` (base64) and `mime_type` of the content, else a sample."""
        mime_type, sample = _SAMPLES[kind]
        given = content.pop("bytes", None)
        sample = base64.b64decode(given, validate=True) if isinstance(given, str) else sample
        mime_type = str(content.pop("mime_type", mime_type))
        media = self._number.media.keep(sample, mime_type, str(content.get("filename", "")), INBOUND_DAYS)
        return {"id": media.media_id, "mime_type": mime_type, "sha256": media.sha256} | content
