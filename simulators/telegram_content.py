"""Validation of the sending methods of the Bot API, and the content of the Message that each makes.

What enters: the fields of a call. What leaves: a TelegramContent with the parts of one Message, or of several for an album; or
TelegramRefused. Guaranteed: texts are counted after their entities were parsed, in UTF-16 units. Chats, limits and ids are elsewhere.
https://core.telegram.org/bots/api#available-methods
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from simulators import telegram_entities
from simulators.telegram_fields import Fields, bad, units
from simulators.telegram_files import Files, described

TEXT_LIMIT = 4096
CAPTION_LIMIT = 1024
ALBUM = (2, 10)


@dataclass(frozen=True, slots=True)
class TelegramContent:
    """What one call sends: the parts of its messages. The log reads the key from `text`."""

    kind: str
    parts: tuple[Mapping[str, Any], ...]
    text: str


async def _message(fields: Fields, _files: Files) -> TelegramContent:
    if not fields.text("text").strip():
        raise bad("message text is empty")
    text, entities = telegram_entities.parsed(fields, "text", "entities")
    if not text.strip():
        raise bad("message text is empty")
    if units(text) > TEXT_LIMIT:
        raise bad("message is too long")
    return TelegramContent("text", ({"text": text} | ({"entities": entities} if entities else {}),), text)


def _caption(fields: Fields) -> dict[str, Any]:
    text, entities = telegram_entities.parsed(fields, "caption", "caption_entities")
    if units(text) > CAPTION_LIMIT:
        raise bad("message caption is too long")
    return ({"caption": text} if text else {}) | ({"caption_entities": entities} if entities else {})


def _file(kind: str, ours: str) -> "Reader":
    async def read(fields: Fields, files: Files) -> TelegramContent:
        caption = {} if kind == "sticker" else _caption(fields)
        file = await files.take(kind, fields, fields.text(kind), kind)
        part = {kind: described(file), **caption}
        if kind == "animation":
            part["document"] = {"file_id": file.file_id, "file_unique_id": file.unique_id}
        return TelegramContent(ours, (part,), caption.get("caption", ""))

    return read


async def _location(fields: Fields, _files: Files) -> TelegramContent:
    latitude, longitude = fields.number("latitude"), fields.number("longitude")
    if latitude is None or longitude is None:
        raise bad(
            "latitude is empty"
            if not fields.has("latitude")
            else "longitude is empty"
            if not fields.has("longitude")
            else "wrong location"
        )
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        raise bad("wrong location specified")
    location = {"latitude": latitude, "longitude": longitude}
    if not fields.has("title"):
        return TelegramContent("location", ({"location": location},), "")
    venue = {"location": location, "title": fields.text("title"), "address": fields.text("address")}
    return TelegramContent("location", ({"location": location, "venue": venue},), "")


async def _venue(fields: Fields, files: Files) -> TelegramContent:
    for name in ("title", "address"):
        if not fields.text(name).strip():
            raise bad(f"{name} must be non-empty")
    return await _location(fields, files)


async def _contact(fields: Fields, _files: Files) -> TelegramContent:
    for name in ("phone_number", "first_name"):
        if not fields.text(name).strip():
            raise bad(f"{name.replace('_', ' ')} is empty")
    contact = {"phone_number": fields.text("phone_number"), "first_name": fields.text("first_name")}
    return TelegramContent("contact", ({"contact": contact},), "")


async def _album(fields: Fields, files: Files) -> TelegramContent:
    media = fields.nested("media")
    if not isinstance(media, list):
        raise bad("media must be an array" if media is not None else "there are no messages to send")
    if not ALBUM[0] <= len(media) <= ALBUM[1]:
        raise bad("there are no messages to send" if not media else "wrong number of messages in the album")
    kinds = [each.get("type") if isinstance(each, dict) else None for each in media]
    if not set(kinds) <= {"photo", "video", "document", "audio"}:
        raise bad("can't parse InputMedia: type must be one of photo, video, document, audio")
    if len(set(kinds)) > 1 and set(kinds) & {"document", "audio"}:
        raise bad(
            "Document can't be mixed with other media types"
            if "document" in kinds
            else "Audio can't be mixed with other media types"
        )
    parts = []
    for item in media:
        caption = _caption(Fields(item, {}))
        given = item.get("media")
        file = await files.take(item["type"], fields, given if isinstance(given, str) else "", "")
        parts.append({item["type"]: described(file), **caption})
    return TelegramContent("album", tuple(parts), next((part["caption"] for part in parts if "caption" in part), ""))


Reader = Callable[[Fields, Files], Awaitable[TelegramContent]]
# lower-case method -> reader of its fields; the second argument is the pipeline's name for the kind
METHODS: Mapping[str, Reader] = {
    "sendmessage": _message,
    "sendphoto": _file("photo", "image"),
    "senddocument": _file("document", "document"),
    "sendvideo": _file("video", "video"),
    "sendaudio": _file("audio", "audio"),
    "sendvoice": _file("voice", "audio"),
    "sendanimation": _file("animation", "video"),
    "sendsticker": _file("sticker", "sticker"),
    "sendlocation": _location,
    "sendvenue": _venue,
    "sendcontact": _contact,
    "sendmediagroup": _album,
}
ACTIONS = frozenset(
    ("typing", "upload_photo", "record_video", "upload_video", "record_voice", "upload_voice", "upload_document",
     "choose_sticker", "find_location", "record_video_note", "upload_video_note")
)  # fmt: skip  # a list of words, several on a line
_REACTIONS = (
    "👍 👎 ❤ 🔥 🥰 👏 😁 🤔 🤯 😱 🤬 😢 🎉 🤩 🤮 💩 🙏 👌 🕊 🤡 🥱 🥴 😍 🐳 ❤‍🔥 🌚 🌭 💯 🤣 ⚡ 🍌 🏆 💔 🤨 😐 🍓 🍾 💋 🖕 😈 😴 😭 🤓 👻 "
    "👨‍💻 👀 🎃 🙈 😇 😨 🤝 ✍ 🤗 🫡 🎅 🎄 ☃ 💅 🤪 🗿 🆒 💘 🙉 🦄 😘 💊 🙊 😎 👾 🤷‍♂ 🤷 🤷‍♀ 😡"
)
REACTIONS = frozenset(_REACTIONS.split())
