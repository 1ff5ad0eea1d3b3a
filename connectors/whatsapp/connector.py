"""WhatsApp Cloud API: the connector of one business number.

What enters: a Delivery (bodies.py makes the call), or a webhook request signed with one of our app secrets (webhook.py reads it). What
leaves: an Outcome (errors.py knows the error codes), or the items of the webhook. Guaranteed: one call for each part; our signed tracker is
in biz_opaque_callback_data, so a receipt names its delivery without a join and proves a call whose answer was lost. Provider's id of a
message: its wamid.
https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages
"""

import dataclasses
from typing import Any, Self
from urllib.parse import quote

import orjson

from connectors import meta_errors
from connectors.base import ChannelDeclaration, Probed, ProviderAnswer, WebhookItems, WebhookRequest
from connectors.http_calls import Answer
from connectors.json_fields import Unexpected, items, node, text
from connectors.meta_graph import MetaConnector, retry_if_harmless
from connectors.whatsapp import bodies, message_history, webhook
from connectors.whatsapp.bodies import CAPABILITIES, check
from connectors.whatsapp.errors import WHATSAPP
from schemas import tracker
from schemas.outcomes import Accepted, Outcome, Rejected, RetryLater, Unknown
from schemas.records import SIGNALS, Delivery
from schemas.settings import Settings

CHANNEL = webhook.CHANNEL


class WhatsAppConnector(MetaConnector):
    """The connector of one business number; connectors/base.py has the contract of its methods.

    `tracker_keys` sign the trackers; without a key none is sent. All other arguments are those of MetaConnector.
    """

    channel = CHANNEL
    capabilities = CAPABILITIES

    def __init__(self, *, tracker_keys: tracker.Keys = tracker.NO_KEYS, **of_meta: Any) -> None:
        super().__init__(**of_meta)
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
        return bodies.parts(delivery)

    async def send(self, delivery: Delivery, attempt: int, part: int = 0) -> Outcome:
        """One POST /messages. https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages"""
        refused = check(delivery)
        if refused is not None:
            return refused
        if not delivery.account:
            delivery = dataclasses.replace(delivery, account=self._account)  # for the path and the tracker
        tracked = tracker.encode(delivery, attempt, self._tracker_keys, partial=part + 1 < self.parts(delivery))
        body = orjson.dumps(bodies.body(delivery, part, tracked))
        answer = await self._post(delivery.account, delivery, body, attempt)
        outcome = _outcome(answer, delivery, attempt - part) if isinstance(answer, Answer) else answer
        return retry_if_harmless(outcome, delivery)

    def parse_webhook(self, request: WebhookRequest, received_at: int) -> WebhookItems:
        self._prove(request)
        return webhook.read(request.body, received_at)

    async def probe(self) -> Probed:
        """Reads our business number. https://developers.facebook.com/docs/whatsapp/business-management-api/manage-phone-numbers"""
        fields = ("display_phone_number", "verified_name", "quality_rating")
        return await self._probe(self._account, WHATSAPP, "WhatsApp", *fields)

    async def ask(self, account: str, provider_message_id: str, received_at: int) -> ProviderAnswer:
        """Reads the history of a message; Meta may not have granted it to every app.

        https://developers.facebook.com/docs/graph-api/reference/whats-app-business-account-to-number-current-status/message_history
        """
        path = (
            f"{quote(account or self._account, safe='')}/message_history?{message_history.query(provider_message_id)}"
        )
        answer = await self._calls.get(f"{self._base}/{path}", self._headers)
        if not isinstance(answer, Answer):
            return ProviderAnswer(refusal=answer.reason, is_final=isinstance(answer, RetryLater))
        if answer.status != 200 or meta_errors.envelope(answer) is not None:
            outcome = meta_errors.outcome(answer, WHATSAPP, CHANNEL, 1)
            return ProviderAnswer(refusal=outcome.reason, is_final=isinstance(outcome, RetryLater))
        try:
            found = message_history.receipts(answer.json(), account or self._account, provider_message_id, received_at)
        except Unexpected as why:
            return ProviderAnswer(refusal=f"WhatsApp answered HTTP 200, but with no history: {why}")
        return ProviderAnswer(found)


def _outcome(answer: Answer, delivery: Delivery, tries: int) -> Outcome:
    # A 200 may contain an error, so look for the error object with every status.
    if answer.status != 200 or meta_errors.envelope(answer) is not None:
        return meta_errors.outcome(answer, WHATSAPP, CHANNEL, tries)
    try:
        body = node(answer.json(), "answer")
        if delivery.kind in SIGNALS and body.get("success") is True:
            return Accepted(())
        accepted = items(body, "messages")
        return Accepted(tuple(text(node(each, "message"), "id") for each in accepted[:1] or [None]))
    except Unexpected as why:
        return Unknown(f"WhatsApp answered HTTP 200, but the answer names no message id: {why}", "no_id")


DECLARATION = ChannelDeclaration(
    capabilities=CAPABILITIES,
    check=check,
    account=lambda settings: settings.whatsapp_account,
    build=WhatsAppConnector.from_settings,
    send_settings=("whatsapp_account", "whatsapp_token"),
    webhook_settings=("whatsapp_app_secrets", "whatsapp_verify_token"),
    no_answers="",
)
