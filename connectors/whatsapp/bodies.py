"""The capabilities of WhatsApp, and the JSON of the call for each part of a delivery.

What enters: a Delivery. What leaves: the body of the call, or why WhatsApp could never accept it. Guaranteed: pure; a delivery that passes
`check` has a body for each of its `parts`.
https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast

from connectors import content_check
from connectors.base import Capabilities, MediaLimit
from schemas.content import Content, Location, Media, Template
from schemas.outcomes import Rejected
from schemas.records import MEDIA_KINDS, SIGNALS, Delivery

_MB = 1024 * 1024
# https://developers.facebook.com/docs/whatsapp/cloud-api/reference/media#supported-media-types
_MEDIA = {
    "image": MediaLimit(5 * _MB, frozenset({"image/jpeg", "image/png"})),
    "audio": MediaLimit(
        16 * _MB, frozenset({"audio/aac", "audio/amr", "audio/mpeg", "audio/mp4", "audio/ogg"}), captioned=False
    ),
    "video": MediaLimit(16 * _MB, frozenset({"video/mp4", "video/3gpp"})),
    "document": MediaLimit(100 * _MB),
    "sticker": MediaLimit(500 * 1024, frozenset({"image/webp"}), captioned=False),  # animated; 100 KB for a still one
}
CAPABILITIES = Capabilities(
    delivered=True,
    read=True,
    text_limit=4096,  # https://developers.facebook.com/docs/whatsapp/cloud-api/messages/text-messages
    text_unit="characters",
    unknown_policy="hold",
    caption_limit=1024,  # https://developers.facebook.com/docs/whatsapp/cloud-api/messages/image-messages
    kinds=frozenset({"text", "template", "location", "reaction", *_MEDIA, *SIGNALS}),
    targeted=frozenset({"reaction", *SIGNALS}),
    replies=True,
    media=_MEDIA,
    window_hours=24,  # later, only templates: https://developers.facebook.com/docs/whatsapp/cloud-api/guides/send-messages
)

# People can hide their number behind a business-scoped user id, which goes into another field.
# https://developers.facebook.com/docs/whatsapp/business-scoped-user-ids
_SCOPED_ID = re.compile(r"[A-Z]{2}\.(ENT\.)?\d+", re.ASCII)


def check(delivery: Delivery) -> Rejected | None:
    """Why WhatsApp could never accept this delivery, None when it may. As Connector.check."""
    return content_check.refusal_of(delivery, CAPABILITIES, "WhatsApp")


def parts(delivery: Delivery) -> int:
    """How many messages the delivery becomes: more than one only for a long text that is split."""
    return 1 if delivery.kind != "text" else len(content_check.pieces(delivery, CAPABILITIES)) or 1


def body(delivery: Delivery, part: int, tracked: str | None) -> dict[str, Any]:
    """The JSON of POST /<version>/<phone number id>/messages; `tracked` is our signed tracker, None without a key to sign with."""
    content = content_check.content_of(delivery)
    if delivery.kind in SIGNALS:
        return _signal(delivery.kind, content)
    made: dict[str, Any] = {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "recipient" if _SCOPED_ID.fullmatch(delivery.address) else "to": delivery.address,
        "type": delivery.kind,
        delivery.kind: _OBJECTS[delivery.kind](delivery, content, part),
    }
    if content.reply_to and delivery.kind != "reaction" and part == 0:
        made["context"] = {"message_id": content.reply_to}
    if tracked is not None:
        made["biz_opaque_callback_data"] = tracked
    return made


def _signal(kind: str, content: Content) -> dict[str, Any]:
    """Marks a person's message as read. With `typing` it also shows a typing indicator, for up to 25 s.

    https://developers.facebook.com/docs/whatsapp/cloud-api/typing-indicators
    """
    read = {"messaging_product": "whatsapp", "status": "read", "message_id": content.reply_to}
    return read | {"typing_indicator": {"type": "text"}} if kind == "typing" else read


def _text(delivery: Delivery, _: Content, part: int) -> dict[str, Any]:
    return {"body": content_check.pieces(delivery, CAPABILITIES)[part], "preview_url": False}


def _medium(delivery: Delivery, content: Content, _: int) -> dict[str, Any]:
    media = content.media[0]
    caption = {"caption": delivery.text} if delivery.text else {}
    return _file(media) | caption


def _file(media: Media) -> dict[str, Any]:
    """https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages#media-object."""
    place = {"link": media.url} if media.provider_media_id is None else {"id": media.provider_media_id}
    return place | ({"filename": media.filename} if media.filename and media.kind == "document" else {})


def _location(_: Delivery, content: Content, _part: int) -> dict[str, Any]:
    """https://developers.facebook.com/docs/whatsapp/cloud-api/messages/location-messages."""
    place = cast("Location", content.location)  # checked before the call
    named = {"name": place.name, "address": place.address}
    return {"latitude": place.latitude, "longitude": place.longitude} | {k: v for k, v in named.items() if v}


def _reaction(_: Delivery, content: Content, _part: int) -> dict[str, Any]:
    """An empty emoji removes an earlier reaction: https://developers.facebook.com/docs/whatsapp/cloud-api/messages/reaction-messages."""
    return {"message_id": content.reply_to, "emoji": content.reaction or ""}


def _template(_: Delivery, content: Content, _part: int) -> dict[str, Any]:
    """https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages#template-object."""
    template = cast("Template", content.template)  # checked before the call
    body = {"name": template.name, "language": {"code": template.language}}
    components = _components(template, content.media)
    return body | {"components": components} if components else body


def _components(template: Template, media: tuple[Media, ...]) -> list[dict[str, Any]]:
    header = [{"type": each.kind, each.kind: _file(each)} for each in media[:1]] or _parameters(template.header)
    filled = (("header", header), ("body", _parameters(template.body)))
    components: list[dict[str, Any]] = [{"type": name, "parameters": found} for name, found in filled if found]
    buttons = [
        {"type": "button", "sub_type": "url", "index": str(index), "parameters": _parameters((text,))}
        for index, text in enumerate(template.buttons)
    ]
    return components + buttons


def _parameters(texts: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": each} for each in texts]


_OBJECTS: Mapping[str, Callable[[Delivery, Content, int], dict[str, Any]]] = MappingProxyType(
    {
        "text": _text,
        "location": _location,
        "reaction": _reaction,
        "template": _template,
        **dict.fromkeys(MEDIA_KINDS, _medium),
    }
)
