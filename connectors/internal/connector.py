"""The internal channel: messages to our own clients, who come for them themselves.

What enters: a Delivery, or a request with one of our bearer tokens. What leaves: Accepted at once, or what the clients confirm and write.
Guaranteed: no call leaves this process. A delivery is accepted when it is stored, and it is: the conversation log had it, in Kafka and
replicated, before the delivery existed. Its id at this "provider" is made of the delivery id, the tenant and the person, so a receipt from
a token that speaks for others finds no delivery. What later carries messages to clients (a session service, say) reads them there and
posts here; docs/internal.md fixes its contract. Confirming twice changes nothing.
"""

from collections.abc import Mapping, Sequence

from connectors import content_check
from connectors.base import (
    Capabilities,
    ChannelDeclaration,
    Forbidden,
    MediaLimit,
    Probed,
    WebhookItems,
    WebhookRequest,
)
from connectors.internal import webhook
from connectors.signatures import is_same
from connectors.webhook_limits import trimmed_to_limits
from schemas.accounts import accounts_in
from schemas.client_tokens import ClientToken, tokens_in
from schemas.ids import shown_id
from schemas.outcomes import Accepted, Outcome, Rejected
from schemas.records import KINDS, MEDIA_KINDS, SIGNALS, Delivery
from schemas.settings import Settings

CHANNEL = webhook.CHANNEL
_LARGEST = 100 * 1024 * 1024
CAPABILITIES = Capabilities(
    delivered=True,
    read=True,
    text_limit=16_384,
    caption_limit=16_384,
    text_unit="characters",
    unknown_policy="resend",  # a worker's end between intent and result: storing again what is stored changes nothing
    kinds=frozenset(KINDS) - {"template"},
    targeted=frozenset({"reaction", "mark_read"}),
    replies=True,
    media={kind: MediaLimit(_LARGEST, captioned=kind != "sticker") for kind in MEDIA_KINDS},
    album=(2, 30),
)
_BEARER = "Bearer "


def check(delivery: Delivery) -> Rejected | None:
    """Whether our clients could never take this delivery."""
    return content_check.refusal_of(delivery, CAPABILITIES, "the internal channel")


class InternalConnector:
    """The connector. `tokens` are the bearer tokens that may post, two while one is being replaced; without any, nobody may. `owner` is the
    tenant the account is listed for, None when all share it."""

    channel = CHANNEL
    signs_bodies = False
    capabilities = CAPABILITIES

    def __init__(self, *, account: str, tokens: Sequence[ClientToken] = (), owner: str | None = None) -> None:
        self._account = account
        self._tokens = tuple(tokens)
        self._owner = owner

    @classmethod
    def from_settings(cls, settings: Settings) -> "InternalConnector":
        owner = accounts_in(settings.accounts).listed.get((CHANNEL, settings.internal_account))
        tokens = tokens_in(settings.internal_tokens.get_secret_value())
        return cls(account=settings.internal_account, tokens=tokens, owner=owner)

    def check(self, delivery: Delivery) -> Rejected | None:
        return check(delivery)

    def parts(self, delivery: Delivery) -> int:  # noqa: ARG002  # our clients show a text as long as it is: nothing is ever cut
        return 1

    async def send(self, delivery: Delivery, attempt: int, part: int = 0) -> Outcome:  # noqa: ARG002  # storing it again is the same
        refused = check(delivery)
        if refused is not None:
            return refused
        if delivery.account not in ("", self._account):
            return Rejected("unknown_account", "the delivery names another account than the one this worker sends with")
        shown = shown_id(delivery.delivery_id, delivery.tenant_id, delivery.address)
        return Accepted(() if delivery.kind in SIGNALS else (shown,))

    def screen(self, headers: Mapping[str, str]) -> None:
        self._token_of(headers)

    def parse_webhook(self, request: WebhookRequest, received_at: int) -> WebhookItems:
        token = self._token_of(request.headers)
        reading = webhook.ClientRequest(self._account, self._owner, token, received_at)
        return trimmed_to_limits(reading.items(request.body))

    async def probe(self) -> Probed:
        if not self._tokens:
            return Probed(False, "no client may confirm or write: set CHAT4ALL_INTERNAL_TOKENS")
        return Probed(True, "nothing to call: a delivery on the internal channel is accepted when it is stored")

    async def close(self) -> None:
        """There is nothing to close."""

    def _token_of(self, headers: Mapping[str, str]) -> ClientToken:
        """Raises Forbidden for a token that is not ours."""
        header, found = headers.get("authorization", ""), None
        for token in self._tokens:
            if is_same(header, _BEARER + token.token):  # no early exit: the time must not tell which token matched
                found = token
        if found is None:
            raise Forbidden("Authorization is not `Bearer` with one of CHAT4ALL_INTERNAL_TOKENS")
        return found


DECLARATION = ChannelDeclaration(
    capabilities=CAPABILITIES,
    check=check,
    account=lambda settings: settings.internal_account,
    build=InternalConnector.from_settings,
    send_settings=("internal_account",),
    webhook_settings=("internal_account", "internal_tokens"),
)
