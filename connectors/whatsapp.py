"""WhatsApp Cloud API: everything a business may send to one address.

What enters: a Delivery, or a webhook request signed with one of our app secrets. What leaves: an Outcome, or what the webhook told
(whatsapp_webhook.py). Guaranteed: one call a part; our signed tracker travels in biz_opaque_callback_data, so a receipt names its delivery
without a join and proves a call whose answer was lost. Provider's id of a message: its wamid.
https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Self, cast

import orjson

from connectors import limits, meta, whatsapp_webhook
from connectors.base import Capabilities, Channel, MediaLimit, Probed, WebhookItems, WebhookRequest
from connectors.exchange import Answer
from connectors.graph import Graph, again_if_harmless
from connectors.shape import Unexpected, items, node, text
from connectors.whatsapp_errors import WHATSAPP
from schemas import tracker
from schemas.outcomes import Accepted, Outcome, Rejected, Unknown
from schemas.records import MEDIA_KINDS, SIGNALS, Content, Delivery, Location, Media, Template
from schemas.settings import Settings

CHANNEL = whatsapp_webhook.CHANNEL
_MB = 1024 * 1024
# https://developers.facebook.com/docs/whatsapp/cloud-api/reference/media#supported-media-types
_MEDIA = {
    "image": MediaLimit(5 * _MB, frozenset({"image/jpeg", "image/png"})),
    "audio": MediaLimit(
        16 * _MB, frozenset({"audio/aac", "audio/amr", "audio/mpeg", "audio/mp4", "audio/ogg"}), captioned=False
    ),
    "video": MediaLimit(16 * _MB, frozenset({"video/mp4", "video/3gpp"})),
    "document": MediaLimit(100 * _MB),
    "sticker": MediaLimit(500 * 1024, frozenset({"image/webp"}), captioned=False),  # animated; still ones have 100 KB
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
)
# People may hide their number behind a business-scoped user id, which goes into another field.
# https://developers.facebook.com/docs/whatsapp/business-scoped-user-ids
_SCOPED_ID = re.compile(r"[A-Z]{2}\.(ENT\.)?\d+", re.ASCII)


def check(delivery: Delivery) -> Rejected | None:
    """Whether WhatsApp could never take this delivery; pure."""
    return limits.refusal(delivery, CAPABILITIES, "WhatsApp")


class WhatsApp(Graph):
    """The connector of one business number."""

    channel = CHANNEL
    capabilities = CAPABILITIES

    def __init__(self, *, tracker_keys: tracker.Keys = tracker.NO_KEYS, **of_graph: Any) -> None:
        super().__init__(**of_graph)
        self._tracker_keys = tracker_keys

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(
            url=settings.whatsapp_url,
            version=settings.whatsapp_version,
            account=settings.whatsapp_account,
            token=settings.whatsapp_token.get_secret_value(),
            app_secrets=settings.whatsapp_app_secrets.get_secret_value(),
            verify_token=settings.whatsapp_verify_token.get_secret_value(),
            timeout_seconds=settings.send_timeout_seconds,
            tracker_keys=tracker.keys_in(settings.tracker_keys.get_secret_value()),
        )

    def check(self, delivery: Delivery) -> Rejected | None:
        return check(delivery)

    def parts(self, delivery: Delivery) -> int:
        return 1 if delivery.kind != "text" else len(limits.pieces(delivery, CAPABILITIES)) or 1

    async def send(self, delivery: Delivery, attempt: int, part: int = 0) -> Outcome:
        refused = check(delivery)
        if refused is not None:
            return refused
        if not delivery.account:
            delivery = dataclasses.replace(delivery, account=self._account)  # the path and the tracker name it
        body = orjson.dumps(self._body(delivery, attempt, part))
        answer = await self._post(delivery.account, delivery, body, attempt)
        outcome = _outcome(answer, delivery, attempt - part) if isinstance(answer, Answer) else answer
        return again_if_harmless(outcome, delivery)

    def parse_webhook(self, request: WebhookRequest, received_at: int) -> WebhookItems:
        self._prove(request)
        return whatsapp_webhook.read(request.body, received_at)

    async def probe(self) -> Probed:
        """https://developers.facebook.com/docs/whatsapp/business-management-api/manage-phone-numbers"""
        fields = ("display_phone_number", "verified_name", "quality_rating")
        return await self._probe(self._account, WHATSAPP, "WhatsApp", *fields)

    def _body(self, delivery: Delivery, attempt: int, part: int) -> dict[str, Any]:
        content = limits.content_of(delivery)
        if delivery.kind in SIGNALS:
            return _signal(delivery.kind, content)
        body: dict[str, Any] = {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "recipient" if _SCOPED_ID.fullmatch(delivery.address) else "to": delivery.address,
            "type": delivery.kind,
            delivery.kind: _OBJECTS[delivery.kind](delivery, content, part),
        }
        if content.reply_to and delivery.kind != "reaction" and part == 0:
            body["context"] = {"message_id": content.reply_to}
        tracked = tracker.encode(delivery, attempt, self._tracker_keys, partial=part + 1 < self.parts(delivery))
        if tracked is not None:
            body["biz_opaque_callback_data"] = tracked
        return body


def _signal(kind: str, content: Content) -> dict[str, Any]:
    """Marks the message of a person as read, and with `typing` shows them for 25 s that we write.

    https://developers.facebook.com/docs/whatsapp/cloud-api/typing-indicators
    """
    read = {"messaging_product": "whatsapp", "status": "read", "message_id": content.reply_to}
    return read | {"typing_indicator": {"type": "text"}} if kind == "typing" else read


def _text(delivery: Delivery, _: Content, part: int) -> dict[str, Any]:
    return {"body": limits.pieces(delivery, CAPABILITIES)[part], "preview_url": False}


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
    """An empty emoji takes an earlier reaction back: .../cloud-api/messages/reaction-messages."""
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


def _outcome(answer: Answer, delivery: Delivery, tries: int) -> Outcome:
    # An error may hide inside a 200, so the envelope is looked for whatever the status.
    if answer.status != 200 or meta.envelope(answer) is not None:
        return meta.outcome(answer, WHATSAPP, CHANNEL, tries)
    try:
        body = node(answer.json(), "answer")
        if delivery.kind in SIGNALS and body.get("success") is True:
            return Accepted(())
        accepted = items(body, "messages")
        return Accepted(tuple(text(node(each, "message"), "id") for each in accepted[:1] or [None]))
    except Unexpected as why:
        return Unknown(f"WhatsApp answered HTTP 200, but the answer names no message id: {why}", "no_id")


DECLARATION = Channel(
    capabilities=CAPABILITIES,
    check=check,
    account=lambda settings: settings.whatsapp_account,
    build=WhatsApp.from_settings,
    send_settings=("whatsapp_account", "whatsapp_token"),
    webhook_settings=("whatsapp_app_secrets", "whatsapp_verify_token"),
)
