"""The internal channel: messages to our own clients, which fetch them themselves.

What enters: a Delivery, or a request with one of our bearer tokens (webhook.py reads it). What leaves: Accepted at once, or the receipts
and messages of the clients. Guaranteed: no call leaves this process. A delivery is accepted because it is stored already: its message was
in the conversation log, replicated in Kafka, before the delivery existed. Its provider id is made of the delivery id, the tenant and the
person, so a receipt with the token of another tenant or person finds no delivery. Confirming twice changes nothing. A service that carries
messages to clients reads topic deliveries.internal and posts receipts to this channel's webhook; docs/internal.md is its contract.
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
    unknown_policy="resend",  # after a crash between intent and result: a repeated call changes nothing
    kinds=frozenset(KINDS) - {"template"},
    targeted=frozenset({"reaction", "mark_read"}),
    replies=True,
    media={kind: MediaLimit(_LARGEST, captioned=kind != "sticker") for kind in MEDIA_KINDS},
    album=(2, 30),
    own_tenants=True,
)
_BEARER = "Bearer "


def check(delivery: Delivery) -> Rejected | None:
    """Why our clients could never accept this delivery, None when they may. As Connector.check."""
    return content_check.refusal_of(delivery, CAPABILITIES, "the internal channel")


class InternalConnector:
    """The connector of one account of our own clients; connectors/base.py has the contract of its methods.

    `tokens` are the bearer tokens that may post, two while one is being replaced; without any, every request is refused. `owner` is the
    tenant that CHAT4ALL_ACCOUNTS lists for the account, None when all tenants share it.
    """

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

    def parts(self, delivery: Delivery) -> int:  # noqa: ARG002  # our clients show texts of any length: nothing is split
        return 1

    async def send(self, delivery: Delivery, attempt: int, part: int = 0) -> Outcome:  # noqa: ARG002  # every attempt is the same
        """Accepts the delivery without a call; there is nothing to wait for."""
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
        """As Connector.parse_webhook; raises ForbiddenItem (403) when the token may not speak for the tenant or person of one item."""
        token = self._token_of(request.headers)
        reading = webhook.ClientRequest(self._account, self._owner, token, received_at)
        return trimmed_to_limits(reading.items(request.body))

    async def probe(self) -> Probed:
        """Makes no call: checks that there is a token."""
        if not self._tokens:
            return Probed(False, "no client may confirm or write: set CHAT4ALL_INTERNAL_TOKENS")
        return Probed(True, "nothing to call: a delivery on the internal channel is accepted as soon as it is stored")

    async def close(self) -> None:
        """Does nothing: there is no connection to close."""

    def _token_of(self, headers: Mapping[str, str]) -> ClientToken:
        """The token of a request; raises Forbidden when it is not one of ours."""
        header, found = headers.get("authorization", ""), None
        for token in self._tokens:
            if is_same(header, _BEARER + token.token):  # no early exit: the duration must not show which token matched
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
    no_answers="a client reports its receipts itself, and there is nobody to ask",
)
