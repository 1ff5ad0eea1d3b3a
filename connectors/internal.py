"""The internal channel: messages to our own clients, who come for them themselves.

What enters: a Delivery, or a request with one of our bearer tokens. What leaves: Accepted at once, or what the clients confirm and write.
Guaranteed: no call leaves this process. A delivery is accepted when it is stored, and it is: the conversation log had it, in Kafka and
replicated, before the delivery existed. Its id at this "provider" is made of the delivery id, the tenant and the person, so a receipt from
a token that speaks for others finds no delivery. What later carries messages to clients (a session service, say) reads them there and
posts here; docs/internal.md fixes its contract. Confirming twice changes nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from connectors import limits
from connectors.base import (
    Capabilities,
    Channel,
    Forbidden,
    Inbound,
    MediaLimit,
    Overstepped,
    Probed,
    WebhookItems,
    WebhookRequest,
)
from connectors.bounds import kept
from connectors.shape import (
    Node,
    Unexpected,
    decode,
    items,
    milliseconds,
    node,
    number,
    optional_text,
    optional_whole,
    text,
    word,
)
from connectors.signatures import is_same
from schemas.accounts import accounts_in
from schemas.clients import Token, tokens_in
from schemas.ids import shown_id
from schemas.keys import DEFAULT_TENANT
from schemas.outcomes import Accepted, Outcome, Rejected
from schemas.records import KINDS, MEDIA_KINDS, SIGNALS, Content, Delivery, Location, Media, Receipt, ReceiptStatus
from schemas.settings import Settings

CHANNEL = "internal"
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
_STATUSES = {"delivered": ReceiptStatus.DELIVERED, "read": ReceiptStatus.READ, "failed": ReceiptStatus.FAILED}
_BEARER = "Bearer "
T = TypeVar("T")


def check(delivery: Delivery) -> Rejected | None:
    """Whether our clients could never take this delivery."""
    return limits.refusal(delivery, CAPABILITIES, "the internal channel")


class Internal:
    """The connector. `tokens` are the bearer tokens that may post, two while one is being replaced; without any, nobody may. `owner` is the
    tenant the account is listed for, None when all share it."""

    channel = CHANNEL
    signs_bodies = False
    capabilities = CAPABILITIES

    def __init__(self, *, account: str, tokens: Sequence[Token] = (), owner: str | None = None) -> None:
        self._account = account
        self._tokens = tuple(tokens)
        self._owner = owner

    @classmethod
    def from_settings(cls, settings: Settings) -> "Internal":
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
        body = decode(request.body)
        if not isinstance(body, dict):
            return WebhookItems(unrecognised=("body: not a JSON object",), own_tenants=True)
        receipts, odd_receipts = _each(body, "receipts", lambda item: self._receipt(item, token, received_at))
        inbound, odd_messages = _each(body, "messages", lambda item: self._inbound(item, token, received_at))
        return kept(WebhookItems(receipts, inbound, odd_receipts + odd_messages, own_tenants=True))

    async def probe(self) -> Probed:
        if not self._tokens:
            return Probed(False, "no client may confirm or write: set CHAT4ALL_INTERNAL_TOKENS")
        return Probed(True, "nothing to call: a delivery on the internal channel is accepted when it is stored")

    async def close(self) -> None:
        """There is nothing to close."""

    def _token_of(self, headers: Mapping[str, str]) -> Token:
        """Raises Forbidden for a token that is not ours."""
        header, found = headers.get("authorization", ""), None
        for token in self._tokens:
            if is_same(header, _BEARER + token.token):  # no early exit: the time must not tell which token matched
                found = token
        if found is None:
            raise Forbidden("Authorization is not `Bearer` with one of CHAT4ALL_INTERNAL_TOKENS")
        return found

    def _whom(self, item: Node, token: Token) -> tuple[str, str]:
        """Tenant and person an item speaks for; raises Overstepped when the token may not, and then nothing of the request is kept."""
        named = None if item.get("tenant_id") is None else text(item, "tenant_id")
        tenant = named or token.tenant or self._owner or DEFAULT_TENANT
        person = text(item, "address")
        if not token.speaks_for(tenant, person) or self._owner not in (None, tenant):
            raise Overstepped("the token does not speak for the tenant or the person of an item")
        return tenant, person

    def _receipt(self, item: Node, token: Token, received_at: int) -> Receipt:
        delivery_id, name = text(item, "delivery_id"), text(item, "status")
        tenant, person = self._whom(item, token)
        if name not in _STATUSES:
            raise Unexpected(f"status {word(name)} is none of {', '.join(_STATUSES)}")
        shown = shown_id(delivery_id, tenant, person)
        return Receipt(
            tenant_id=tenant,
            event_id=f"internal:{self._account}:{shown}:{name}",
            channel=CHANNEL,
            account=self._account,
            provider_message_id=shown,
            status=_STATUSES[name],
            provider_at=milliseconds(item, "at", received_at),
            received_at=received_at,
            error_code=optional_text(item, "error_code"),
            error_title=optional_text(item, "error_title"),
        )

    def _inbound(self, item: Node, token: Token, received_at: int) -> Inbound:
        tenant, person = self._whom(item, token)
        kind = text(item, "kind")
        if kind not in KINDS:
            raise Unexpected(f"kind {word(kind)} is none of {', '.join(KINDS)}")
        return Inbound(
            channel=CHANNEL,
            account=self._account,
            address=person,
            provider_message_id=text(item, "id"),
            kind=kind,
            text=optional_text(item, "text") or "",
            at=milliseconds(item, "at", received_at),
            content=_content(node(item["content"], "content")) if item.get("content") is not None else None,
            tenant_id=tenant,
        )


def _each(body: Node, name: str, read: Callable[[Node], T]) -> tuple[tuple[T, ...], tuple[str, ...]]:
    """What each item of a list is, and the names of those that are odd."""
    found: list[T] = []
    odd: list[str] = []
    try:
        for item in items(body, name):
            try:
                found.append(read(node(item, name)))
            except Unexpected as why:
                odd.append(f"{name}: {why}")
    except Unexpected as why:
        odd.append(str(why))
    return tuple(found), tuple(odd)


def _content(said: Node) -> Content:
    """The part of a Content that a person can write (schemas/avro/message.v2.avsc), of the same names."""
    place = said.get("location")
    return Content(
        media=tuple(_medium(node(item, "medium")) for item in items(said, "media")),
        location=None if place is None else _location(node(place, "location")),
        reply_to=optional_text(said, "reply_to"),
        reaction=optional_text(said, "reaction"),
    )


def _medium(medium: Node) -> Media:
    return Media(
        kind=text(medium, "kind"),
        url=optional_text(medium, "url"),
        provider_media_id=optional_text(medium, "provider_media_id"),
        mime_type=optional_text(medium, "mime_type") or "",
        filename=optional_text(medium, "filename"),
        size=optional_whole(medium, "size"),
    )


def _location(place: Node) -> Location:
    return Location(
        number(place, "latitude"),
        number(place, "longitude"),
        optional_text(place, "name") or "",
        optional_text(place, "address") or "",
    )


DECLARATION = Channel(
    capabilities=CAPABILITIES,
    check=check,
    account=lambda settings: settings.internal_account,
    build=Internal.from_settings,
    send_settings=("internal_account",),
    webhook_settings=("internal_account", "internal_tokens"),
)
