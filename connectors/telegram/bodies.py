"""The capabilities of Telegram, and the call for each part of a delivery: the method of the Bot API and its JSON.

What enters: a Delivery. What leaves: Rejected before any call, or the method and body of one part. Guaranteed: pure; a delivery that
passes `check` has a body for each of its `parts`.
https://core.telegram.org/bots/api#available-methods
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from connectors import content_check
from connectors.base import Capabilities, MediaLimit
from schemas.content import Content, Media
from schemas.outcomes import Rejected
from schemas.records import Delivery

Fields = dict[str, Any]
_MB = 1024 * 1024


def text_length(text: str) -> int:
    """The length as Telegram counts: UTF-16 code units. https://core.telegram.org/api/entities#entity-length"""
    return len(text) if text.isascii() else len(text) + sum(1 for character in text if character > "\uffff")


CAPABILITIES = Capabilities(
    delivered=False,
    read=False,
    unknown_policy="resend",
    text_limit=4096,  # https://core.telegram.org/bots/api#sendmessage
    caption_limit=1024,  # https://core.telegram.org/bots/api#sendphoto
    text_unit="UTF-16 code units",
    length=text_length,
    kinds=frozenset(
        {"text", "image", "document", "audio", "video", "sticker", "album", "location", "reaction", "typing"}
    ),
    replies=True,
    # By link: 5 MB for photos, 20 MB for the rest. https://core.telegram.org/bots/api#sending-files
    media=MappingProxyType(
        {
            "image": MediaLimit(5 * _MB, frozenset({"image/jpeg", "image/png", "image/webp", "image/gif"})),
            "document": MediaLimit(20 * _MB),
            # https://core.telegram.org/bots/api#sendaudio: MP3 or M4A; #sendvoice: OGG
            "audio": MediaLimit(
                20 * _MB,
                frozenset({"audio/mpeg", "audio/mp3", "audio/mp4", "audio/m4a", "audio/x-m4a", "audio/ogg"}),
            ),
            "video": MediaLimit(20 * _MB, frozenset({"video/mp4"})),  # https://core.telegram.org/bots/api#sendvideo
            # https://core.telegram.org/bots/api#sendsticker
            "sticker": MediaLimit(
                20 * _MB, frozenset({"image/webp", "video/webm", "application/x-tgsticker"}), captioned=False
            ),
        }
    ),
    album=(2, 10),  # https://core.telegram.org/bots/api#sendmediagroup
    # groups and channels: https://core.telegram.org/bots/api#chat
    is_group=lambda address: address.startswith(("-", "@")),
)
WITHOUT_ID = frozenset({"reaction", "typing"})  # kinds that make no message: Telegram answers `true`
_NUMERIC = re.compile(r"-?\d{1,19}", re.ASCII)
_MESSAGE_ID = re.compile(r"(?:(-?\d{1,19}):)?(\d{1,18})", re.ASCII)
# Types of the media in an album: https://core.telegram.org/bots/api#inputmedia
_ALBUM_TYPES = {"image": "photo", "video": "video", "document": "document", "audio": "audio"}


def chat_of(address: str) -> int | str:
    """A chat's number, or the @name of a public channel."""
    return int(address) if _NUMERIC.fullmatch(address) else address


def check(delivery: Delivery) -> Rejected | None:
    """Why Telegram could never accept this delivery, None when it may. As Connector.check."""
    refused = content_check.refusal_of(delivery, CAPABILITIES, "Telegram")
    if refused is not None:
        return refused
    content = content_check.content_of(delivery)
    if delivery.kind == "text" and not delivery.text.strip():
        return Rejected("text_empty", "the text is only white space, which Telegram counts as empty")
    if delivery.kind == "album" and (refused := _wrong_album(content)) is not None:
        return refused
    return _wrong_target(delivery.address, content.reply_to)


def parts(delivery: Delivery) -> int:
    """How many messages the delivery becomes: more than one only for a long text that is split."""
    return len(content_check.pieces(delivery, CAPABILITIES)) if delivery.kind == "text" else 1


def body(delivery: Delivery, part: int, chat: int | str) -> tuple[str, Fields]:
    """Method and JSON of one part of a delivery that passed `check`, for its chat."""
    content = content_check.content_of(delivery)
    method, fields = _BODIES[delivery.kind](delivery, content, part)
    fields["chat_id"] = chat
    if content.reply_to and part == 0 and delivery.kind not in WITHOUT_ID:
        # Send it even when the message it replies to is gone: https://core.telegram.org/bots/api#replyparameters
        target = _target(content.reply_to)
        fields["reply_parameters"] = {"message_id": target, "allow_sending_without_reply": True}
    return method, fields


def _text(delivery: Delivery, _: Content, part: int) -> tuple[str, Fields]:
    return "sendMessage", {"text": content_check.pieces(delivery, CAPABILITIES)[part]}


def _medium(delivery: Delivery, content: Content, _: int) -> tuple[str, Fields]:
    """https://core.telegram.org/bots/api#sendphoto and the like: each method has a field of its own name."""
    media = content.media[0]
    name = _name(media)
    fields: Fields = {name: _place(media)}
    if delivery.text:
        fields["caption"] = delivery.text
    return "send" + name.capitalize(), fields


def _album(delivery: Delivery, content: Content, _: int) -> tuple[str, Fields]:
    """Telegram shows the caption of the first item for the album: https://core.telegram.org/bots/api#sendmediagroup"""
    items: list[Fields] = [{"type": _ALBUM_TYPES[media.kind], "media": _place(media)} for media in content.media]
    if delivery.text:
        items[0]["caption"] = delivery.text
    return "sendMediaGroup", {"media": items}


def _location(_: Delivery, content: Content, _part: int) -> tuple[str, Fields]:
    """A place with a name or an address is a venue, which must have both: https://core.telegram.org/bots/api#sendvenue"""
    place = content.location
    assert place is not None, "check lets no location pass without a place"  # noqa: S101  # a guarantee of this module
    fields: Fields = {"latitude": place.latitude, "longitude": place.longitude}
    if not (place.name or place.address):
        return "sendLocation", fields
    return "sendVenue", fields | {"title": place.name or place.address, "address": place.address or place.name}


def _reaction(_: Delivery, content: Content, _part: int) -> tuple[str, Fields]:
    """An empty list removes the reaction: https://core.telegram.org/bots/api#setmessagereaction"""
    emoji = content.reaction
    reaction = [{"type": "emoji", "emoji": emoji}] if emoji else []
    return "setMessageReaction", {"message_id": _target(content.reply_to or ""), "reaction": reaction}


def _typing(_: Delivery, _content: Content, _part: int) -> tuple[str, Fields]:
    return "sendChatAction", {"action": "typing"}  # https://core.telegram.org/bots/api#sendchataction


_BODIES: Mapping[str, Callable[[Delivery, Content, int], tuple[str, Fields]]] = MappingProxyType(
    {
        "text": _text,
        **dict.fromkeys(("image", "document", "audio", "video", "sticker"), _medium),
        "album": _album,
        "location": _location,
        "reaction": _reaction,
        "typing": _typing,
    }
)


def _name(media: Media) -> str:
    """Telegram's name for a medium: animations and voice messages have their own."""
    mime_type = media.mime_type.partition(";")[0].strip()
    if media.kind == "image":
        return "animation" if mime_type == "image/gif" else "photo"
    return "voice" if mime_type == "audio/ogg" else media.kind


def _place(media: Media) -> str:
    return media.provider_media_id or media.url or ""


def _target(reply_to: str) -> int:
    match = _MESSAGE_ID.fullmatch(reply_to)
    return int(match[2]) if match else 0


def _wrong_target(address: str, reply_to: str | None) -> Rejected | None:
    """Rejected for a `reply_to` of another chat: a message_id is unique within its chat only and would name another message."""
    if not reply_to:
        return None
    match = _MESSAGE_ID.fullmatch(reply_to)
    if match is None:
        return Rejected("reply_malformed", "`reply_to` is not a message id of Telegram, <chat>:<message>")
    may_be_moved = address.startswith("-") and (match[1] or "-").startswith("-")  # a group that became a supergroup
    if _NUMERIC.fullmatch(address) and match[1] not in (None, address) and not may_be_moved:
        return Rejected("reply_elsewhere", "the message to reply or react to is in another chat")
    return None


def _wrong_album(content: Content) -> Rejected | None:
    """https://core.telegram.org/bots/api#sendmediagroup: documents and audio cannot be mixed with other kinds."""
    kinds = {media.kind for media in content.media}
    if not kinds <= set(_ALBUM_TYPES):
        return Rejected(
            "album_mixed", "an album on Telegram can have images, videos, documents or audio, but no stickers"
        )
    if kinds & {"document", "audio"} and len(kinds) > 1:
        return Rejected("album_mixed", "on Telegram an album with documents or audio can have only that one kind")
    return None
