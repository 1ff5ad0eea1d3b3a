"""WhatsApp Cloud API: one text to one person, and the webhooks that tell what became of it.

What enters: a Delivery, or a signed webhook request. What leaves: an Outcome, or receipts and inbound messages. Guaranteed: one call
an attempt; our tracker travels as `biz_opaque_callback_data` and comes back in every receipt; one bad item of a webhook never loses
the others. Provider's id of a message: its wamid.
https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from connectors import meta
from connectors.base import Capabilities, Channel, Forbidden, Inbound, WebhookItems, WebhookRequest
from connectors.exchange import Answer, Calls
from connectors.shape import (
    Node,
    Unexpected,
    child,
    decode,
    is_unicode,
    items,
    node,
    optional_text,
    seconds_as_ms,
    text,
    word,
)
from connectors.signatures import is_same, is_signed_by_meta
from connectors.whatsapp_errors import WHATSAPP
from schemas import tracker
from schemas.outcomes import Accepted, Outcome, Rejected, Unknown
from schemas.records import Delivery, Receipt, ReceiptStatus
from schemas.settings import Settings

CHANNEL = "whatsapp"
CAPABILITIES = Capabilities(delivered=True, read=True, text_limit=4096, text_unit="characters", unknown_policy="hold")
# People may hide their number behind a business-scoped user id, which goes into another field.
_SCOPED_ID = re.compile(r"[A-Z]{2}\.(ENT\.)?\d+", re.ASCII)
_STATUSES = {
    "sent": ReceiptStatus.SENT,
    "delivered": ReceiptStatus.DELIVERED,
    "read": ReceiptStatus.READ,
    "played": ReceiptStatus.READ,  # a voice message that was listened to
    "failed": ReceiptStatus.FAILED,
}


def check(delivery: Delivery) -> Rejected | None:
    """Whether WhatsApp could never take this delivery; pure."""
    if delivery.kind != "text":
        return Rejected("kind_unsupported", "this version sends texts only on WhatsApp")
    if not delivery.address:
        return Rejected("no_address", "the delivery names no WhatsApp address")
    if not delivery.text:
        return Rejected("text_empty", "the text is empty; WhatsApp takes 1 to 4096 characters")
    if not is_unicode(delivery.text):
        return Rejected("text_not_unicode", "the text holds a lone surrogate, which no UTF-8 can carry")
    if len(delivery.text) > CAPABILITIES.text_limit:
        return Rejected("text_too_long", f"the text has {len(delivery.text)} characters; WhatsApp takes at most 4096")
    return None


class WhatsApp:
    """The connector. Empty secrets are allowed where they are not used: sending needs `token`, webhooks `app_secrets`."""

    channel = CHANNEL
    capabilities = CAPABILITIES

    def __init__(
        self,
        *,
        url: str,
        version: str,
        account: str,
        token: str,
        app_secrets: Sequence[str] = (),
        verify_token: str = "",
        timeout_seconds: float = 10.0,
        connections: int = 256,
    ) -> None:
        self._base = f"{url.rstrip('/')}/{version}"
        self._account = account
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._app_secrets = tuple(app_secrets)
        self._verify_token = verify_token
        self._calls = Calls(
            channel=CHANNEL, secrets=(token,), told=meta.told, timeout_seconds=timeout_seconds, connections=connections
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> "WhatsApp":
        secrets = settings.whatsapp_app_secrets.get_secret_value().split(",")
        return cls(
            url=settings.whatsapp_url,
            version=settings.whatsapp_version,
            account=settings.whatsapp_account,
            token=settings.whatsapp_token.get_secret_value(),
            app_secrets=[secret.strip() for secret in secrets if secret.strip()],
            verify_token=settings.whatsapp_verify_token.get_secret_value(),
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
        url = f"{self._base}/{quote(delivery.account or self._account, safe='')}/messages"
        answer = await self._calls.post(
            url, _body(delivery, attempt), self._headers, delivery_id=delivery.delivery_id, attempt=attempt
        )
        return _outcome(answer, attempt) if isinstance(answer, Answer) else answer

    def challenge(self, request: WebhookRequest) -> str:
        """What to answer (200, as plain text) to Meta's verification GET; raises Forbidden for a wrong token.

        https://developers.facebook.com/docs/graph-api/webhooks/getting-started#verification-requests
        """
        query = request.query
        known = is_same(query.get("hub.verify_token", ""), self._verify_token) and bool(self._verify_token)
        if query.get("hub.mode") != "subscribe" or not known:
            raise Forbidden("the verification request does not carry our verify token")
        return query.get("hub.challenge", "")

    def parse_webhook(self, request: WebhookRequest, received_at: int) -> WebhookItems:
        if not is_signed_by_meta(request.body, request.headers.get("x-hub-signature-256"), self._app_secrets):
            raise Forbidden("X-Hub-Signature-256 does not match the body under any of our app secrets")
        receipts: list[Receipt] = []
        inbound: list[Inbound] = []
        unrecognised: list[str] = []
        for kind, account, item in _walk(decode(request.body)):
            try:
                if kind == "statuses":
                    receipts.append(_receipt(node(item, "status"), account, received_at))
                elif kind == "messages":
                    inbound.append(_inbound(node(item, "message"), account))
                else:
                    unrecognised.append(kind)
            except Unexpected as why:
                unrecognised.append(f"{kind}: {why}")
        return WebhookItems(tuple(receipts), tuple(inbound), tuple(unrecognised))

    async def close(self) -> None:
        await self._calls.close()


def _body(delivery: Delivery, attempt: int) -> bytes:
    body: dict[str, Any] = {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "recipient" if _SCOPED_ID.fullmatch(delivery.address) else "to": delivery.address,
        "type": "text",
        "text": {"body": delivery.text, "preview_url": False},
    }
    tracked = tracker.encode(delivery, attempt)
    if tracked is not None:
        body["biz_opaque_callback_data"] = tracked
    return orjson.dumps(body)


def _outcome(answer: Answer, attempt: int) -> Outcome:
    # An error may hide inside a 200, so the envelope is looked for whatever the status.
    if answer.status != 200 or meta.envelope(answer) is not None:
        return meta.outcome(answer, WHATSAPP, attempt)
    try:
        accepted = items(node(answer.json(), "answer"), "messages")
        return Accepted(tuple(text(node(each, "message"), "id") for each in accepted[:1] or [None]))
    except Unexpected as why:
        return Unknown(f"WhatsApp answered HTTP 200, but the answer names no message id: {why}")


def _walk(body: object) -> Iterator[tuple[str, str, object]]:
    """Every item of a webhook as (kind, account, item); what cannot hold items is an item of a kind we have no use for."""
    try:
        entries = items(node(body, "body"), "entry")
    except Unexpected as why:
        yield str(why), "", None
        return
    for entry in entries:
        try:
            for change in items(node(entry, "entry"), "changes"):
                yield from _walk_change(change)
        except Unexpected as why:
            yield f"entry: {why}", "", None


def _walk_change(change: object) -> Iterator[tuple[str, str, object]]:
    try:
        field, value = node(change, "change").get("field"), child(node(change, "change"), "value")
        if field != "messages":
            yield f"field {word(field)}", "", None
            return
        account = text(child(value, "metadata"), "phone_number_id")
    except Unexpected as why:
        yield f"change: {why}", "", None
        return
    for kind in ("statuses", "messages"):
        try:
            for item in items(value, kind):
                yield kind, account, item
        except Unexpected as why:
            yield str(why), account, None
    yield from _walk_errors(value, account)


def _walk_errors(value: Node, account: str) -> Iterator[tuple[str, str, object]]:
    """Errors of the account itself: they name no message, but tell about the health of the channel."""
    errors = value.get("errors")
    for error in errors if isinstance(errors, list) else []:
        code = error.get("code") if isinstance(error, dict) else None
        yield f"account error {code if isinstance(code, int) else '?'}", account, None


def _receipt(status: Node, account: str, received_at: int) -> Receipt:
    name, wamid = text(status, "status"), text(status, "id")
    if name not in _STATUSES:
        raise Unexpected(f"status {word(name)} is none we know")
    participant = optional_text(status, "recipient_participant_id")  # in groups each member has a status of their own
    code, title = _failure(status)
    return Receipt(
        event_id=f"whatsapp:{account}:{wamid}:{name}" + (f":{participant}" if participant else ""),
        channel=CHANNEL,
        account=account,
        provider_message_id=wamid,
        status=_STATUSES[name],
        provider_at=seconds_as_ms(status, "timestamp"),
        received_at=received_at,
        callback_data=optional_text(status, "biz_opaque_callback_data"),
        error_code=code,
        error_title=title,
    )


def _failure(status: Node) -> tuple[str | None, str | None]:
    """Code and title of the first error of a status, None where there is none."""
    errors = status.get("errors")
    error = errors[0] if isinstance(errors, list) and errors else None
    if not isinstance(error, dict):
        return None, None
    code = error.get("code")
    return str(code) if isinstance(code, int) else None, optional_text(error, "title")


def _inbound(message: Node, account: str) -> Inbound:
    kind = text(message, "type")
    if kind == "system":
        raise Unexpected("a system notice, not written by a person")
    return Inbound(
        channel=CHANNEL,
        account=account,
        address=optional_text(message, "from") or text(message, "from_user_id"),
        provider_message_id=text(message, "id"),
        kind=word(kind),
        text=_text_of(message, kind),
        at=seconds_as_ms(message, "timestamp"),
    )


def _text_of(message: Node, kind: str) -> str:
    """What the person wrote or chose: text, caption, button, emoji; empty when the kind has none."""
    content = message.get(kind)
    if not isinstance(content, dict):
        return ""
    replies = [content[reply] for reply in ("button_reply", "list_reply") if isinstance(content.get(reply), dict)]
    found = [content.get(name) for name in ("body", "caption", "text", "emoji")] + [
        each.get("title") for each in replies
    ]
    return next((each for each in found if isinstance(each, str)), "")


DECLARATION = Channel(
    capabilities=CAPABILITIES,
    check=check,
    account=lambda settings: settings.whatsapp_account,
    build=WhatsApp.from_settings,
    send_settings=("whatsapp_account", "whatsapp_token"),
    webhook_settings=("whatsapp_app_secrets", "whatsapp_verify_token"),
)
