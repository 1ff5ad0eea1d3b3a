"""Telegram Bot API: one text to one chat, and the updates its webhook brings.

What enters: a Delivery, or an update with our secret header. What leaves: an Outcome, or inbound messages and inferred READ receipts
(Telegram has no receipts: a reply, a button or a reaction shows that a person saw our message). Guaranteed: one call an attempt; the
token, which is part of the URL, reaches no sentence. Provider's id of a message: "<chat_id>:<message_id>", because message_id is
unique per chat only. Account: the bot's id, the digits before the token's colon.
https://core.telegram.org/bots/api#sendmessage
"""

import re
from typing import Any

import orjson

from connectors import telegram_errors
from connectors.base import Capabilities, Channel, Forbidden, Inbound, WebhookItems, WebhookRequest
from connectors.exchange import Answer, Calls
from connectors.shape import Node, Unexpected, child, decode, is_unicode, node, seconds_as_ms, whole
from connectors.signatures import is_from_telegram
from schemas.outcomes import Accepted, Outcome, Rejected, RetryLater, Unknown
from schemas.records import Delivery, Receipt, ReceiptStatus
from schemas.settings import Settings

CHANNEL = "telegram"
CAPABILITIES = Capabilities(
    delivered=False, read=False, text_limit=4096, text_unit="UTF-16 code units", unknown_policy="resend"
)
_NUMERIC = re.compile(r"-?\d{1,19}", re.ASCII)
_MIGRATIONS_KEPT = 10_000
# Content of a message that a person writes; everything else in a message is a notice of the service.
_KINDS = (
    "text", "photo", "document", "video", "audio", "voice", "animation", "sticker", "video_note", "location", "venue", "contact",
    "poll", "dice",
)  # fmt: skip


def bot_id(token: str) -> str:
    """Our account of a token: the digits before its colon; empty without a token."""
    return token.partition(":")[0]


def text_length(text: str) -> int:
    """Length as Telegram counts: UTF-16 code units. https://core.telegram.org/api/entities#entity-length"""
    return len(text) if text.isascii() else len(text) + sum(1 for character in text if character > "\uffff")


def check(delivery: Delivery) -> Rejected | None:
    """Whether Telegram could never take this delivery; pure."""
    if delivery.kind != "text":
        return Rejected("kind_unsupported", "this version sends texts only on Telegram")
    if not delivery.address:
        return Rejected("no_address", "the delivery names no Telegram chat")
    if not delivery.text:
        return Rejected("text_empty", "the text is empty; Telegram takes 1 to 4096 UTF-16 code units")
    if not is_unicode(delivery.text):
        return Rejected("text_not_unicode", "the text holds a lone surrogate, which no UTF-8 can carry")
    length = text_length(delivery.text)
    if length > CAPABILITIES.text_limit:
        return Rejected("text_too_long", f"the text has {length} UTF-16 code units; Telegram takes at most 4096")
    return None


class Telegram:
    """The connector of one bot. An empty `webhook_secret` refuses every webhook."""

    channel = CHANNEL
    capabilities = CAPABILITIES

    def __init__(
        self,
        *,
        url: str,
        token: str,
        webhook_secret: str = "",
        timeout_seconds: float = 10.0,
        connections: int = 256,
    ) -> None:
        self._send_url = f"{url.rstrip('/')}/bot{token}/sendMessage"
        self._account = bot_id(token)
        self._webhook_secret = webhook_secret
        self._calls = Calls(
            channel=CHANNEL,
            secrets=(token,),
            told=telegram_errors.told,
            timeout_seconds=timeout_seconds,
            connections=connections,
        )
        # Chats that became supergroups: old address -> new id, learned from answers. Losing it costs one more call.
        self._migrated: dict[str, int] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> "Telegram":
        return cls(
            url=settings.telegram_url,
            token=settings.telegram_token.get_secret_value(),
            webhook_secret=settings.telegram_webhook_secret.get_secret_value(),
            timeout_seconds=settings.send_timeout_seconds,
        )

    def check(self, delivery: Delivery) -> Rejected | None:
        return check(delivery)

    def parts(self, delivery: Delivery) -> int:  # noqa: ARG002  # one text, one call
        return 1

    async def send(self, delivery: Delivery, attempt: int, part: int = 0) -> Outcome:  # noqa: ARG002  # there is one part
        refused = check(delivery)
        if refused is not None:
            return refused
        if delivery.account not in ("", self._account):
            return Rejected("unknown_account", "the delivery names another bot than the one this worker sends with")
        body = orjson.dumps({"chat_id": self._chat(delivery.address), "text": delivery.text})
        headers = {"Content-Type": "application/json"}
        answer = await self._calls.post(
            self._send_url, body, headers, delivery_id=delivery.delivery_id, attempt=attempt
        )
        return self._outcome(answer, delivery.address) if isinstance(answer, Answer) else answer

    def parse_webhook(self, request: WebhookRequest, received_at: int) -> WebhookItems:
        if not is_from_telegram(request.headers.get("x-telegram-bot-api-secret-token"), self._webhook_secret):
            raise Forbidden("X-Telegram-Bot-Api-Secret-Token is not our webhook secret")
        try:
            return self._read(node(decode(request.body), "update"), received_at)
        except Unexpected as why:
            return WebhookItems(unrecognised=(f"update: {why}",))

    async def close(self) -> None:
        await self._calls.close()

    def _chat(self, address: str) -> int | str:
        migrated = self._migrated.get(address)
        if migrated is not None:
            return migrated
        return int(address) if _NUMERIC.fullmatch(address) else address

    def _outcome(self, answer: Answer, address: str) -> Outcome:
        body = answer.json()
        if answer.status != 200 or not (isinstance(body, dict) and body.get("ok") is True):
            return self._migration(answer, address) or telegram_errors.outcome(answer)
        try:
            return Accepted((_provider_id(child(body, "result")),))
        except Unexpected as why:
            return Unknown(f"Telegram answered ok, but the answer names no message: {why}")

    def _migration(self, answer: Answer, address: str) -> RetryLater | None:
        """A group that became a supergroup has a new id; the next attempt goes there.

        https://core.telegram.org/bots/api#responseparameters
        """
        try:
            chat = whole(telegram_errors.parameters(answer), "migrate_to_chat_id")
        except Unexpected:
            return None
        if len(self._migrated) >= _MIGRATIONS_KEPT:
            self._migrated.pop(next(iter(self._migrated)))
        self._migrated[address] = chat
        return RetryLater("the group became a supergroup with another id; the next attempt goes there", "migrated", 0.0)

    def _read(self, update: Node, received_at: int) -> WebhookItems:
        if "message" in update:
            return self._message(child(update, "message"), received_at)
        if "callback_query" in update:
            return self._button(child(update, "callback_query"), received_at)
        if "message_reaction" in update:
            reaction = child(update, "message_reaction")
            return WebhookItems((self._seen(reaction, seconds_as_ms(reaction, "date"), received_at),))
        kinds = sorted(kind for kind in update if kind != "update_id" and kind.isascii() and kind.isidentifier())
        return WebhookItems(unrecognised=(f"update of kind {kinds[0][:40] if kinds else '?'}",))

    def _message(self, message: Node, received_at: int) -> WebhookItems:
        kind = next((kind for kind in _KINDS if kind in message), None)
        if kind is None:
            return WebhookItems(unrecognised=("message: no content a person writes",))
        at = seconds_as_ms(message, "date")
        words = next((message[name] for name in ("text", "caption") if isinstance(message.get(name), str)), "")
        inbound = Inbound(
            channel=CHANNEL,
            account=self._account,
            address=str(whole(child(message, "chat"), "id")),
            provider_message_id=_provider_id(message),
            kind=kind,
            text=words,
            at=at,
        )
        replied = message.get("reply_to_message")
        if not self._is_ours(replied):
            return WebhookItems(inbound=(inbound,))
        try:
            return WebhookItems((self._seen(node(replied, "reply_to_message"), at, received_at),), (inbound,))
        except Unexpected as why:
            return WebhookItems(inbound=(inbound,), unrecognised=(f"reply: {why}",))

    def _button(self, query: Node, received_at: int) -> WebhookItems:
        message = query.get("message")
        if not self._is_ours(message):
            return WebhookItems(unrecognised=("callback_query: not on a message of ours",))
        return WebhookItems((self._seen(node(message, "message"), received_at, received_at),))

    def _is_ours(self, message: object) -> bool:
        author: Any = message.get("from") if isinstance(message, dict) else None
        return isinstance(author, dict) and str(author.get("id")) == self._account

    def _seen(self, message: Node, at: int, received_at: int) -> Receipt:
        """A person acted on this message, so they read it: inferred, for Telegram itself never says so."""
        provider_id = _provider_id(message)
        return Receipt(
            event_id=f"telegram:{self._account}:{provider_id}:read",
            channel=CHANNEL,
            account=self._account,
            provider_message_id=provider_id,
            status=ReceiptStatus.READ,
            provider_at=at,
            received_at=received_at,
            inferred=True,
        )


def _provider_id(message: Node) -> str:
    return f"{whole(child(message, 'chat'), 'id')}:{whole(message, 'message_id')}"


DECLARATION = Channel(
    capabilities=CAPABILITIES,
    check=check,
    account=lambda settings: bot_id(settings.telegram_token.get_secret_value()),
    build=Telegram.from_settings,
    send_settings=("telegram_token",),
    webhook_settings=("telegram_token", "telegram_webhook_secret"),
)
