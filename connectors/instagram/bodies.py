"""The capabilities of Instagram, and the JSON of the call for each part of a delivery: a message or a sender action.

What enters: a Delivery. What leaves: the body of the call, or why Instagram could never accept it. Guaranteed: pure; a delivery that passes
`check` has a body for each of its `parts`.
https://developers.facebook.com/docs/messenger-platform/instagram/features/send-message
"""

from typing import Any

from connectors import content_check
from connectors.base import Capabilities, MediaLimit
from schemas.content import Content
from schemas.outcomes import Rejected
from schemas.records import MEDIA_KINDS, SIGNALS, Delivery

LIKE_HEART = "like_heart"  # the only sticker, used as the medium's id
_MB = 1024 * 1024


def utf8_bytes(text: str) -> int:
    """The length as Instagram counts. A lone surrogate, which UTF-8 cannot have, is counted here and refused by `check`."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


# .../send-message#limitations and .../features/upload-media
_MEDIA = {
    "image": MediaLimit(8 * _MB, frozenset({"image/png", "image/jpeg", "image/gif"})),
    "audio": MediaLimit(
        25 * _MB,
        frozenset({"audio/aac", "audio/mp4", "audio/x-m4a", "audio/m4a", "audio/wav", "audio/x-wav", "video/mp4"}),
    ),
    "video": MediaLimit(
        25 * _MB,
        frozenset({"video/mp4", "video/ogg", "video/x-msvideo", "video/avi", "video/quicktime", "video/webm"}),
    ),
    "document": MediaLimit(25 * _MB, frozenset({"application/pdf"})),
    "sticker": MediaLimit(0, captioned=False),
}
_TYPES = {"image": "image", "audio": "audio", "video": "video", "document": "file"}
CAPABILITIES = Capabilities(
    delivered=False,  # message_deliveries exists for Messenger only
    read=True,
    covers=True,  # `read` names the last message seen: https://developers.facebook.com/docs/messenger-platform/instagram/features/webhook
    text_limit=1000,  # .../send-message#send-a-text-message: "must be UTF-8 and be a 1000 bytes or less"
    text_unit="bytes of UTF-8",
    unknown_policy="hold",
    length=utf8_bytes,
    caption_limit=1000,  # sent as a separate message
    kinds=frozenset({"text", "reaction", *_MEDIA, *SIGNALS}),
    media=_MEDIA,
    window_hours=24,  # https://developers.facebook.com/docs/messenger-platform/instagram/features/send-message
)
_ACTIONS = {"typing": "typing_on", "mark_read": "mark_seen"}
# The API's names of reactions; any other emoji is sent unchanged. .../send-message#react-to-a-message
_REACTIONS = {"❤": "love", "👍": "like", "😆": "laugh", "😂": "laugh", "😮": "wow", "😢": "sad", "😡": "angry"}
_VARIANT = "\ufe0f"


def check(delivery: Delivery) -> Rejected | None:
    """Why Instagram could never accept this delivery, None when it may. As Connector.check."""
    refused = content_check.refusal_of(delivery, CAPABILITIES, "Instagram")
    if refused is None and delivery.kind == "sticker":
        media = content_check.content_of(delivery).media[0]
        if media.provider_media_id != LIKE_HEART:
            return Rejected("sticker_unsupported", f"the only sticker on Instagram has the id {LIKE_HEART}")
    return refused


def parts(delivery: Delivery) -> int:
    """How many messages the delivery becomes: a long text is split, and media with a text are two messages."""
    if delivery.kind == "text":
        return len(content_check.pieces(delivery, CAPABILITIES)) or 1
    return 2 if delivery.kind in MEDIA_KINDS and delivery.text else 1


def body(delivery: Delivery, part: int) -> dict[str, Any]:
    """The JSON of POST /me/messages."""
    return {"recipient": {"id": delivery.address}} | _action(delivery, part)


def _action(delivery: Delivery, part: int) -> dict[str, Any]:
    content = content_check.content_of(delivery)
    if delivery.kind == "reaction":
        return _reaction(content)
    if delivery.kind in SIGNALS:
        return {"sender_action": _ACTIONS[delivery.kind]}
    return {"message": _messages(delivery)[part]}


def _messages(delivery: Delivery) -> list[dict[str, Any]]:
    """The messages of a text, or of media with their text: one for each part."""
    if delivery.kind == "text":
        return [{"text": each} for each in content_check.pieces(delivery, CAPABILITIES)]
    caption = [{"text": delivery.text}] if delivery.text else []
    return [{"attachment": attachment} for attachment in _attachments(content_check.content_of(delivery))] + caption


def _attachments(content: Content) -> list[dict[str, Any]]:
    """https://developers.facebook.com/docs/messenger-platform/instagram/features/upload-media."""
    found: list[dict[str, Any]] = []
    for media in content.media:
        if media.kind == "sticker":
            found.append({"type": LIKE_HEART})
        elif media.provider_media_id is not None:
            found.append({"type": _TYPES[media.kind], "payload": {"attachment_id": media.provider_media_id}})
        else:
            found.append({"type": _TYPES[media.kind], "payload": {"url": media.url}})
    return found


def _reaction(content: Content) -> dict[str, Any]:
    """An empty reaction removes an earlier one."""
    emoji = (content.reaction or "").removesuffix(_VARIANT)
    about = {"message_id": content.reply_to}
    if not emoji:
        return {"sender_action": "unreact", "payload": about}
    return {"sender_action": "react", "payload": {**about, "reaction": _REACTIONS.get(emoji, emoji)}}
