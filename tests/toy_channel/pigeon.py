"""A toy channel, homing pigeons: the least that a connector's module must have. tests/contracts/test_toy_channel.py adds it to a copy.

What enters: a Delivery, or a webhook request with the loft's secret. What leaves: an Outcome, or receipts of pigeons that landed and the
notes they brought. Its settings (CHAT4ALL_PIGEON_URL, _LOFT, _TOKEN) have no field in schemas/settings.py; they work, as secret texts.
"""

import orjson

from connectors import content_check
from connectors.base import Capabilities, ChannelDeclaration, Forbidden, Inbound, WebhookItems, WebhookRequest
from connectors.http_calls import Answer, ErrorDetails, HttpCalls
from connectors.json_fields import Node, Unexpected, decode, items, node, text
from connectors.signatures import is_same
from connectors.webhook_limits import trimmed_to_limits
from schemas.outcomes import Accepted, Outcome, Rejected, RetryLater, Unknown
from schemas.records import Delivery, Receipt, ReceiptStatus
from schemas.settings import Settings

CHANNEL = "pigeon"
CAPABILITIES = Capabilities(delivered=True, read=False, text_limit=160, text_unit="characters", unknown_policy="resend")


def check(delivery: Delivery) -> Rejected | None:
    return content_check.refusal_of(delivery, CAPABILITIES, "the pigeon")


class Pigeon:
    """The connector of one loft."""

    channel = CHANNEL
    capabilities = CAPABILITIES

    def __init__(self, *, url: str, loft: str, token: str, timeout_seconds: float) -> None:
        self._url = f"{url}/flights"
        self._loft = loft
        self._token = token
        self._calls = HttpCalls(
            channel=CHANNEL,
            secrets=(token,),
            error_details=lambda _: ErrorDetails(),
            timeout_seconds=timeout_seconds,
            connections=8,
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> "Pigeon":
        return cls(
            url=settings.text("pigeon_url"),
            loft=settings.text("pigeon_loft"),
            token=settings.text("pigeon_token"),
            timeout_seconds=settings.send_timeout_seconds,
        )

    def check(self, delivery: Delivery) -> Rejected | None:
        return check(delivery)

    def parts(self, delivery: Delivery) -> int:  # noqa: ARG002  # one note for each pigeon
        return 1

    async def send(self, delivery: Delivery, attempt: int, part: int = 0) -> Outcome:  # noqa: ARG002  # there is one part
        refused = check(delivery)
        if refused is not None:
            return refused
        body = orjson.dumps({"to": delivery.address, "note": delivery.text})
        headers = {"Content-Type": "application/json", "X-Loft-Token": self._token}
        answer = await self._calls.post(self._url, body, headers, delivery_id=delivery.delivery_id, attempt=attempt)
        return _outcome(answer) if isinstance(answer, Answer) else answer

    def parse_webhook(self, request: WebhookRequest, received_at: int) -> WebhookItems:
        if not is_same(request.headers.get("x-loft-token", ""), self._token):
            raise Forbidden("the request does not carry the loft's token")
        try:
            body = node(decode(request.body), "body")
            receipts = tuple(self._landed(node(item, "landed"), received_at) for item in items(body, "landed"))
            inbound = tuple(self._note(node(item, "notes"), received_at) for item in items(body, "notes"))
        except Unexpected as why:
            return WebhookItems(unrecognised=(str(why),))
        return trimmed_to_limits(WebhookItems(receipts, inbound))

    async def close(self) -> None:
        await self._calls.close()

    def _landed(self, item: Node, received_at: int) -> Receipt:
        ring = text(item, "ring")
        return Receipt(
            event_id=f"pigeon:{self._loft}:{ring}:landed",
            channel=CHANNEL,
            account=self._loft,
            provider_message_id=ring,
            status=ReceiptStatus.DELIVERED,
            provider_at=received_at,
            received_at=received_at,
        )

    def _note(self, item: Node, received_at: int) -> Inbound:
        return Inbound(
            CHANNEL, self._loft, text(item, "from"), text(item, "ring"), "text", text(item, "note"), received_at
        )


def _outcome(answer: Answer) -> Outcome:
    if answer.status == 503:
        return RetryLater("the pigeons rest: none has left", "resting", answer.retry_after())
    if 400 <= answer.status < 500:
        return Rejected(f"http_{answer.status}", "the loft refused the note")
    try:
        return Accepted((text(node(decode(answer.body), "answer"), "ring"),))
    except Unexpected:
        return Unknown("the loft's answer has no ring: a pigeon may have left")


DECLARATION = ChannelDeclaration(
    capabilities=CAPABILITIES,
    check=check,
    account=lambda settings: settings.text("pigeon_loft"),
    build=Pigeon.from_settings,
    send_settings=("pigeon_loft", "pigeon_url", "pigeon_token"),
    webhook_settings=("pigeon_token",),
)
