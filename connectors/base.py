"""What a connector is: the one file that knows a provider. It knows no Kafka, no table, no retry and no pacing.

What enters: a Delivery to send, or the raw webhook request of the provider. What leaves: an Outcome, or what the webhook told.
Guaranteed: expected failures are values, never exceptions; nothing is retried in here; secrets and texts reach no log line.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from schemas.keys import DEFAULT_TENANT
from schemas.outcomes import Outcome, Rejected
from schemas.records import Content, Delivery, Receipt, Status
from schemas.settings import Settings


@dataclass(frozen=True, slots=True)
class MediaLimit:
    """What a channel takes of one kind of media. `mime_types` is empty where it does not care."""

    max_bytes: int
    mime_types: frozenset[str] = frozenset()
    captioned: bool = True


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a channel can show and take. Limits of texts are in the provider's own counting: `length` counts, `text_unit` names it."""

    delivered: bool
    read: bool
    text_limit: int
    text_unit: str
    unknown_policy: str  # hold, resend or fail: what stage send does with an unknown outcome
    length: Callable[[str], int] = len
    caption_limit: int = 0
    kinds: frozenset[str] = frozenset({"text"})  # kinds of messages, of schemas.records.KINDS
    targeted: frozenset[str] = frozenset({"reaction"})  # kinds that need `reply_to`
    replies: bool = False  # whether a message may refer to an earlier one
    media: Mapping[str, MediaLimit] = field(default_factory=dict)
    album: tuple[int, int] = (2, 10)  # fewest and most media of an album

    @property
    def last_sign(self) -> Status:
        """The furthest status the channel can show: nothing is waited for beyond it."""
        if self.read:
            return Status.READ
        return Status.DELIVERED if self.delivered else Status.SENT


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """One HTTP request of a provider. `headers` has lower-case names; `body` is raw, as signed."""

    method: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Inbound:
    """One message a person wrote to us. `at` is Unix time in milliseconds by the provider's clock."""

    channel: str
    account: str
    address: str
    provider_message_id: str
    kind: str
    text: str
    at: int
    content: Content | None = None  # what it says beyond the text; `reply_to` is the provider's id of what it answers
    tenant_id: str = DEFAULT_TENANT  # where `WebhookItems.own_tenants`


@dataclass(frozen=True, slots=True)
class WebhookItems:
    """Everything one webhook request told. `unrecognised` names each item we know no use for; it never loses the others."""

    receipts: tuple[Receipt, ...] = ()
    inbound: tuple[Inbound, ...] = ()
    unrecognised: tuple[str, ...] = ()
    notices: tuple[
        str, ...
    ] = ()  # what we understand and nothing follows from; for the log, so without addresses and texts
    own_tenants: bool = False  # whether receipts and messages say whose they are; else it is the account's tenant


class Forbidden(Exception):
    """The webhook request does not prove that it comes from the provider: answer with the status, produce nothing."""

    status = 401


class ForbiddenItem(Forbidden):
    """Whoever asks is known, and may not say this."""

    status = 403


class Connector(Protocol):
    """One channel. Instances are made once per worker and shared by all its partitions; `send` is reentrant."""

    channel: str
    capabilities: Capabilities

    def check(self, delivery: Delivery) -> Rejected | None:
        """Whether the provider could never take this delivery (too long, no address); pure, no I/O."""
        ...

    def parts(self, delivery: Delivery) -> int:
        """How many calls the delivery takes, 1 for nearly all (text beside media on Instagram, a long text to be split: more).

        Pure, and the same for the same delivery: stage send makes the calls one after the other, each with an intent of its own,
        and goes on where it stood. The last part moves the delivery; an earlier one is told apart by `partial` in the tracker.
        """
        ...

    async def send(self, delivery: Delivery, attempt: int, part: int = 0) -> Outcome:
        """One call to the provider, for one part, counted from 0; returns within the connector's time-out.

        `attempt` counts from 1 over all parts. Nothing is tried again in here. Raises nothing but cancellation.
        """
        ...

    def parse_webhook(self, request: WebhookRequest, received_at: int) -> WebhookItems:
        """What a signed webhook request says, within our limits (`trimmed_to_limits` of connectors/webhook_limits.py). Raises Forbidden
        when the signature is wrong. Pure, no I/O."""
        ...

    async def close(self) -> None:
        """Closes the pooled connections."""
        ...


@runtime_checkable
class Challenged(Protocol):
    """A connector whose provider first asks, by GET, whether the webhook is ours."""

    def challenge(self, request: WebhookRequest) -> str:
        """What to answer; raises Forbidden when the request does not prove that it comes from the provider. Pure, no I/O."""
        ...


@runtime_checkable
class Screening(Protocol):
    """A connector that sees in the headers alone whether a webhook request is worth reading. `signs_bodies`: the proof is over the body, so
    nobody finds it by trying; else it is a secret in a header."""

    signs_bodies: bool

    def screen(self, headers: Mapping[str, str]) -> None:
        """Raises Forbidden for what `parse_webhook` would forbid whatever the body is. `headers` has lower-case names. Pure, no I/O."""
        ...


@dataclass(frozen=True, slots=True)
class Probed:
    """Whether the configured credentials work; `sentence` is for a person and holds no secret."""

    good: bool
    sentence: str


@runtime_checkable
class Probing(Protocol):
    """A connector whose provider has a call that does nothing but show that the credentials work."""

    async def probe(self) -> Probed:
        """One such call. Raises nothing but cancellation."""
        ...


@dataclass(frozen=True, slots=True)
class ChannelDeclaration:
    """What a connector's file says of its channel, as its constant DECLARATION; connectors/registry.py finds it there.

    Nothing in it opens a connection or needs a token: stage route checks deliveries with it. Give `send_settings` or
    `webhook_settings` to Settings.require before building a connector.
    """

    capabilities: Capabilities
    check: Callable[[Delivery], Rejected | None]
    account: Callable[[Settings], str]  # our default account, empty when not configured
    build: Callable[[Settings], Connector]
    send_settings: tuple[str, ...]
    webhook_settings: tuple[str, ...]
