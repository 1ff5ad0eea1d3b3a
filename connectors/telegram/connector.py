"""Telegram Bot API: the connector of one bot.

What enters: a Delivery (bodies.py makes the call), an update with our secret header (webhook.py reads it), or the updates that we ask for
(updates.py). What leaves: an Outcome (errors.py knows the refusals), or the items of the updates. Guaranteed: one call for each attempt;
the token, which is part of the URL, reaches no sentence and no log. Provider's id of a message: "<chat_id>:<message_id>", because
message_id is unique per chat only. Account: the bot's id, which is the digits before the token's colon.
https://core.telegram.org/bots/api#making-requests
"""

from collections.abc import Callable, Mapping

import orjson

from connectors.base import ChannelDeclaration, Forbidden, NotPolled, Polled, Probed, WebhookItems, WebhookRequest
from connectors.http_calls import Answer, HttpCalls
from connectors.json_fields import Unexpected, child, decode, node, optional_text, whole
from connectors.signatures import is_from_telegram
from connectors.telegram import bodies, errors, webhook
from connectors.telegram.bodies import CAPABILITIES, chat_of, check
from connectors.telegram.updates import UpdateCalls
from schemas.outcomes import Accepted, Outcome, Rejected, RetryLater, Unknown
from schemas.records import Delivery
from schemas.settings import Settings

CHANNEL = webhook.CHANNEL
_HEADERS = {"Content-Type": "application/json"}
_MIGRATIONS_KEPT = 10_000


def bot_id(token: str) -> str:
    """The bot's id in a token: the digits before its colon; empty without a token."""
    return token.partition(":")[0]


class TelegramConnector:
    """The connector of one bot; connectors/base.py has the contract of its methods. Without a `webhook_secret` every webhook is refused."""

    channel = CHANNEL
    signs_bodies = False
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
        self._base = f"{url.rstrip('/')}/bot{token}/"
        self._account = bot_id(token)
        self._webhook_secret = webhook_secret
        self._calls = HttpCalls(
            channel=CHANNEL,
            secrets=(token,),
            error_details=errors.error_details,
            timeout_seconds=timeout_seconds,
            connections=connections,
        )
        self._updates = UpdateCalls(url=f"{self._base}getUpdates", token=token, account=self._account)
        # Groups that became supergroups: old address -> new id, from answers. If it is lost, the next delivery needs one more call.
        self._migrated: dict[str, int] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> "TelegramConnector":
        return cls(
            url=settings.telegram_url,
            token=settings.telegram_token.get_secret_value(),
            webhook_secret=settings.telegram_webhook_secret.get_secret_value(),
            timeout_seconds=settings.send_timeout_seconds,
        )

    def check(self, delivery: Delivery) -> Rejected | None:
        return check(delivery)

    def parts(self, delivery: Delivery) -> int:
        return bodies.parts(delivery)

    async def send(self, delivery: Delivery, attempt: int, part: int = 0) -> Outcome:
        """One call of a sending method. https://core.telegram.org/bots/api#making-requests"""
        refused = check(delivery)
        if refused is not None:
            return refused
        if delivery.account not in ("", self._account):
            return Rejected("unknown_account", "the delivery names another bot than the one this worker sends with")
        chat = self._migrated.get(delivery.address) or chat_of(delivery.address)
        method, fields = bodies.body(delivery, part, chat)
        answer = await self._calls.post(
            self._base + method, orjson.dumps(fields), _HEADERS, delivery_id=delivery.delivery_id, attempt=attempt
        )
        return self._outcome(answer, delivery) if isinstance(answer, Answer) else answer

    def screen(self, headers: Mapping[str, str]) -> None:
        """Raises Forbidden without our secret header. https://core.telegram.org/bots/api#setwebhook"""
        if not is_from_telegram(headers.get("x-telegram-bot-api-secret-token"), self._webhook_secret):
            raise Forbidden("X-Telegram-Bot-Api-Secret-Token is not our webhook secret")

    def parse_webhook(self, request: WebhookRequest, received_at: int) -> WebhookItems:
        self.screen(request.headers)
        return webhook.read(decode(request.body), self._account, received_at)

    async def poll(self, position: str, wait_seconds: int, now: Callable[[], int]) -> Polled | NotPolled:
        """Calls getUpdates. https://core.telegram.org/bots/api#getupdates"""
        return await self._updates.poll(position, wait_seconds, now)

    async def probe(self) -> Probed:
        """Calls getMe. https://core.telegram.org/bots/api#getme"""
        answer = await self._calls.get(self._base + "getMe", {})
        if not isinstance(answer, Answer):
            return Probed(False, answer.reason)
        if not _is_ok(answer):
            return Probed(False, errors.outcome(answer).reason)
        try:
            bot = child(node(answer.json(), "answer"), "result")
            is_ours = str(whole(bot, "id")) == self._account
        except Unexpected as why:
            return Probed(False, f"Telegram's answer describes no bot: {why}")
        if not is_ours:
            return Probed(False, "Telegram answered with another bot than the token names: check CHAT4ALL_TELEGRAM_URL")
        return Probed(True, f"Telegram knows the bot @{bot.get('username', '?')} ({self._account})")

    async def webhook_state(self) -> str:
        """Calls getWebhookInfo. https://core.telegram.org/bots/api#getwebhookinfo"""
        answer = await self._calls.get(self._base + "getWebhookInfo", {})
        if not isinstance(answer, Answer):
            return answer.reason
        if not _is_ok(answer):
            return errors.outcome(answer).reason
        try:
            info = child(node(answer.json(), "answer"), "result")
            pending = whole(info, "pending_update_count")
        except Unexpected as why:
            return f"Telegram's answer describes no webhook: {why}"
        said = optional_text(info, "last_error_message")
        last = f"; its last error with our webhook: {' '.join(said.split())[:200]}" if said else ""
        return f"Telegram keeps {pending} updates for us{last}"

    async def close(self) -> None:
        await self._calls.close()
        await self._updates.close()

    def _outcome(self, answer: Answer, delivery: Delivery) -> Outcome:
        if not _is_ok(answer):
            return self._migration(answer, delivery.address) or errors.outcome(answer)
        if delivery.kind in bodies.WITHOUT_ID:
            return Accepted(())
        try:
            return Accepted(_provider_ids(answer))
        except Unexpected as why:
            return Unknown(f"Telegram answered ok, but the answer names no message: {why}")

    def _migration(self, answer: Answer, address: str) -> RetryLater | None:
        """RetryLater when the group became a supergroup: the next attempt uses its new id. A contact should get the new id too.

        https://core.telegram.org/bots/api#responseparameters
        """
        try:
            chat = whole(errors.parameters(answer), "migrate_to_chat_id")
        except Unexpected:
            return None
        if len(self._migrated) >= _MIGRATIONS_KEPT:
            self._migrated.pop(next(iter(self._migrated)))
        self._migrated[address] = chat
        return RetryLater("the group became a supergroup with another id; the next attempt uses it", "migrated", 0.0)


def _is_ok(answer: Answer) -> bool:
    body = answer.json()
    return answer.status == 200 and isinstance(body, dict) and body.get("ok") is True


def _provider_ids(answer: Answer) -> tuple[str, ...]:
    """The ids of the messages in an answer: several for an album."""
    result = node(answer.json(), "answer").get("result")
    messages = result if isinstance(result, list) and result else [result]
    return tuple(webhook.provider_id(node(message, "result")) for message in messages)


DECLARATION = ChannelDeclaration(
    capabilities=CAPABILITIES,
    check=check,
    account=lambda settings: bot_id(settings.telegram_token.get_secret_value()),
    build=TelegramConnector.from_settings,
    send_settings=("telegram_token",),
    webhook_settings=("telegram_token", "telegram_webhook_secret"),
    polls=lambda settings: settings.telegram_polling,
    no_answers="Telegram reports nothing about a message after it accepted it",
)
