"""Instagram Messaging API: everything an account may send to one person who wrote to it.

What enters: a Delivery, or a webhook request signed with one of our app secrets. What leaves: an Outcome, or what the webhook told
(instagram_webhook.py). Guaranteed: one call a part; media and the text beside them are two messages, the media first, because the API
takes them apart only. Nothing we send comes back with a name of ours, so an answer that was lost is not resolved: the echo names the
message id only. Both flavours are one setting: CHAT4ALL_INSTAGRAM_URL is graph.instagram.com with a token of Instagram Login, or
graph.facebook.com with a Page's; `me` is the token's own account in both. Provider's id of a message: its mid.
https://developers.facebook.com/docs/messenger-platform/instagram/features/send-message
https://developers.facebook.com/docs/instagram-platform/instagram-api-with-instagram-login/messaging-api
"""

from typing import Any, Self

import orjson

from connectors import instagram_webhook, limits, meta
from connectors.base import Capabilities, Channel, MediaLimit, Probed, WebhookItems, WebhookRequest
from connectors.exchange import Answer
from connectors.graph import Graph, again_if_harmless
from connectors.instagram_errors import INSTAGRAM
from connectors.shape import Unexpected, node, text
from schemas.outcomes import Accepted, Outcome, Rejected, Unknown
from schemas.records import MEDIA_KINDS, SIGNALS, Content, Delivery
from schemas.settings import Settings

CHANNEL = instagram_webhook.CHANNEL
LIKE_HEART = "like_heart"  # the one sticker there is, given as the medium's id
_MB = 1024 * 1024


def utf8_bytes(text: str) -> int:
    """Length as Instagram counts. A lone surrogate, which no UTF-8 can carry, is refused elsewhere."""
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
    delivered=False,  # message_deliveries is Messenger's only
    read=True,
    text_limit=1000,  # .../send-message#send-a-text-message: "must be UTF-8 and be a 1000 bytes or less"
    text_unit="bytes of UTF-8",
    unknown_policy="hold",
    length=utf8_bytes,
    caption_limit=1000,  # a message of its own
    kinds=frozenset({"text", "reaction", *_MEDIA, *SIGNALS}),
    media=_MEDIA,
)
_ACTIONS = {"typing": "typing_on", "mark_read": "mark_seen"}
# The API's names of reactions; any other emoji goes as it is. .../send-message#react-to-a-message
_REACTIONS = {"❤": "love", "👍": "like", "😆": "laugh", "😂": "laugh", "😮": "wow", "😢": "sad", "😡": "angry"}
_VARIANT = "\ufe0f"


def check(delivery: Delivery) -> Rejected | None:
    """Whether Instagram could never take this delivery; pure."""
    refused = limits.refusal(delivery, CAPABILITIES, "Instagram")
    if refused is None and delivery.kind == "sticker":
        media = limits.content_of(delivery).media[0]
        if media.provider_media_id != LIKE_HEART:
            return Rejected("sticker_unsupported", f"Instagram has one sticker to send; its id is {LIKE_HEART}")
    return refused


class Instagram(Graph):
    """The connector of one professional account."""

    channel = CHANNEL
    capabilities = CAPABILITIES

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(
            url=settings.instagram_url,
            version=settings.instagram_version,
            account=settings.instagram_account,
            token=settings.instagram_token.get_secret_value(),
            app_secrets=settings.instagram_app_secrets.get_secret_value(),
            verify_token=settings.instagram_verify_token.get_secret_value(),
            timeout_seconds=settings.send_timeout_seconds,
        )

    def check(self, delivery: Delivery) -> Rejected | None:
        return check(delivery)

    def parts(self, delivery: Delivery) -> int:
        if delivery.kind == "text":
            return len(limits.pieces(delivery, CAPABILITIES)) or 1
        return 2 if delivery.kind in MEDIA_KINDS and delivery.text else 1

    async def send(self, delivery: Delivery, attempt: int, part: int = 0) -> Outcome:
        refused = check(delivery)
        if refused is not None:
            return refused
        if delivery.account not in ("", self._account):
            return Rejected("unknown_account", "the delivery names another account than the one of this worker's token")
        body = {"recipient": {"id": delivery.address}} | _action(delivery, part)
        answer = await self._post("me", delivery, orjson.dumps(body), attempt)
        outcome = _outcome(answer, delivery, attempt - part) if isinstance(answer, Answer) else answer
        return again_if_harmless(outcome, delivery)

    def parse_webhook(self, request: WebhookRequest, received_at: int) -> WebhookItems:
        self._prove(request)
        return instagram_webhook.read(request.body, received_at)

    async def probe(self) -> Probed:
        """https://developers.facebook.com/docs/instagram-platform/reference/me"""
        return await self._probe("me", INSTAGRAM, "Instagram", "id", "username")


def _action(delivery: Delivery, part: int) -> dict[str, Any]:
    content = limits.content_of(delivery)
    if delivery.kind == "reaction":
        return _reaction(content)
    if delivery.kind in SIGNALS:
        return {"sender_action": _ACTIONS[delivery.kind]}
    return {"message": _messages(delivery)[part]}


def _messages(delivery: Delivery) -> list[dict[str, Any]]:
    """The messages that a text, or media with their text, make: one for each part."""
    if delivery.kind == "text":
        return [{"text": each} for each in limits.pieces(delivery, CAPABILITIES)]
    caption = [{"text": delivery.text}] if delivery.text else []
    return [{"attachment": attachment} for attachment in _attachments(limits.content_of(delivery))] + caption


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
    """An empty reaction takes an earlier one back."""
    emoji = (content.reaction or "").removesuffix(_VARIANT)
    about = {"message_id": content.reply_to}
    if not emoji:
        return {"sender_action": "unreact", "payload": about}
    return {"sender_action": "react", "payload": {**about, "reaction": _REACTIONS.get(emoji, emoji)}}


def _outcome(answer: Answer, delivery: Delivery, tries: int) -> Outcome:
    # An error may hide inside a 200, so the envelope is looked for whatever the status.
    if answer.status != 200 or meta.envelope(answer) is not None:
        return meta.outcome(answer, INSTAGRAM, CHANNEL, tries)
    try:
        body = node(answer.json(), "answer")
        if delivery.kind == "reaction" or delivery.kind in SIGNALS:
            text(body, "recipient_id")
            return Accepted(())
        return Accepted((text(body, "message_id"),))
    except Unexpected as why:
        return Unknown(f"Instagram answered HTTP 200, but the answer names no message: {why}", "no_id")


DECLARATION = Channel(
    capabilities=CAPABILITIES,
    check=check,
    account=lambda settings: settings.instagram_account,
    build=Instagram.from_settings,
    send_settings=("instagram_account", "instagram_token"),
    webhook_settings=("instagram_account", "instagram_app_secrets", "instagram_verify_token"),
)
