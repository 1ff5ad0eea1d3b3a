"""Instagram Messaging API: the connector of one professional account.

What enters: a Delivery (bodies.py makes the call), or a webhook request signed with one of our app secrets (webhook.py reads it). What
leaves: an Outcome (errors.py knows the error codes), or the items of the webhook. Guaranteed: one call for each part; media and the text
beside them are two messages, the media first, because the API accepts them only separately. No webhook returns an id of ours, so a call
whose answer was lost stays unknown: the echo has the provider's message id only. CHAT4ALL_INSTAGRAM_URL selects the variant of the API:
graph.instagram.com with a token of Instagram Login, or graph.facebook.com with a Page's token; `me` is the token's own account in both.
Provider's id of a message: its mid.
https://developers.facebook.com/docs/messenger-platform/instagram/features/send-message
https://developers.facebook.com/docs/instagram-platform/instagram-api-with-instagram-login/messaging-api
"""

from typing import Self

import orjson

from connectors import meta_errors
from connectors.base import ChannelDeclaration, Probed, WebhookItems, WebhookRequest
from connectors.http_calls import Answer
from connectors.instagram import bodies, webhook
from connectors.instagram.bodies import CAPABILITIES, check
from connectors.instagram.errors import INSTAGRAM
from connectors.json_fields import Unexpected, node, text
from connectors.meta_graph import MetaConnector, retry_if_harmless
from schemas.outcomes import Accepted, Outcome, Rejected, Unknown
from schemas.records import SIGNALS, Delivery
from schemas.settings import Settings

CHANNEL = webhook.CHANNEL


class InstagramConnector(MetaConnector):
    """The connector of one professional account; connectors/base.py has the contract of its methods."""

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
        return bodies.parts(delivery)

    async def send(self, delivery: Delivery, attempt: int, part: int = 0) -> Outcome:
        """One POST /me/messages. https://developers.facebook.com/docs/messenger-platform/instagram/features/send-message"""
        refused = check(delivery)
        if refused is not None:
            return refused
        if delivery.account not in ("", self._account):
            return Rejected("unknown_account", "the delivery names another account than the one of this worker's token")
        answer = await self._post("me", delivery, orjson.dumps(bodies.body(delivery, part)), attempt)
        outcome = _outcome(answer, delivery, attempt - part) if isinstance(answer, Answer) else answer
        return retry_if_harmless(outcome, delivery)

    def parse_webhook(self, request: WebhookRequest, received_at: int) -> WebhookItems:
        self._prove(request)
        return webhook.read(request.body, received_at)

    async def probe(self) -> Probed:
        """Reads the token's own account. https://developers.facebook.com/docs/instagram-platform/reference/me"""
        return await self._probe("me", INSTAGRAM, "Instagram", "id", "username")


def _outcome(answer: Answer, delivery: Delivery, tries: int) -> Outcome:
    # A 200 may contain an error, so look for the error object with every status.
    if answer.status != 200 or meta_errors.envelope(answer) is not None:
        return meta_errors.outcome(answer, INSTAGRAM, CHANNEL, tries)
    try:
        body = node(answer.json(), "answer")
        if delivery.kind == "reaction" or delivery.kind in SIGNALS:
            text(body, "recipient_id")
            return Accepted(())
        return Accepted((text(body, "message_id"),))
    except Unexpected as why:
        return Unknown(f"Instagram answered HTTP 200, but the answer names no message: {why}", "no_id")


DECLARATION = ChannelDeclaration(
    capabilities=CAPABILITIES,
    check=check,
    account=lambda settings: settings.instagram_account,
    build=InstagramConnector.from_settings,
    send_settings=("instagram_account", "instagram_token"),
    webhook_settings=("instagram_account", "instagram_app_secrets", "instagram_verify_token"),
    no_answers="Instagram's API says whether a message exists, and not whether it was read",
)
