"""The contract of a connector: the only code that knows a provider. A connector knows no Kafka, no table, no retry and no pacing.

One folder for each channel: connectors/<channel>/ with connector.py (the class and DECLARATION, the one required module), webhook.py (reads
webhook requests), errors.py (the provider's error codes) and bodies.py (capabilities and request bodies). connectors/registry.py finds it.

What enters: a Delivery to send, or the raw webhook request of the provider. What leaves: an Outcome, or the items of the webhook.
Guaranteed: expected failures are return values, never exceptions; a connector retries nothing; secrets and texts reach no log line.

Where it runs: `check`, `parts` and `send` on the event loop of a worker (stages route and send); `screen`, `parse_webhook`, `challenge`
and `poll` on the event loop of the gateway. Everything else of that process waits for the loop, so no method may block: synchronous
methods do no I/O.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from schemas.content import Content
from schemas.keys import DEFAULT_TENANT
from schemas.outcomes import Outcome, Rejected
from schemas.records import CursorReport, Delivery, Preference, Receipt, Status
from schemas.settings import Settings


def _is_no_group(address: str) -> bool:  # noqa: ARG001  # the default of Capabilities.is_group
    return False


@dataclass(frozen=True, slots=True)
class MediaLimit:
    """What a channel accepts of one kind of media."""

    max_bytes: int  # of a file behind a link, where the delivery names its size; a file the provider already has is not measured
    mime_types: frozenset[str] = frozenset()  # without parameters; empty: any type
    captioned: bool = True  # whether the message may have a text beside the media


class Observed(NamedTuple):
    """What a channel reports about a message after SENT; `covers`: a receipt READ means that everything before it in the thread was read
    too."""

    delivered: bool
    read: bool
    covers: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a channel can show and accept. `content_check.refusal_of` checks deliveries against it; stages read the rest."""

    delivered: bool  # whether the provider reports that a message reached the person's device
    read: bool  # whether it reports that a person saw a message; reads that are only inferred do not count
    text_limit: int  # the longest text, as `length` counts
    text_unit: str  # what `length` counts, for sentences: "characters", "bytes of UTF-8", ...
    # What stage send does when the outcome of a call is unknown. `hold` waits CHAT4ALL_UNKNOWN_HOLD_SECONDS for a receipt as proof and then
    # sends again: useful when a receipt can name a delivery whose answer was lost. `resend` sends again after a back-off (it risks a
    # duplicate), `fail` gives up (it risks a loss). Signals (typing, mark_read) are always sent again.
    unknown_policy: str
    length: Callable[[str], int] = len  # of a text, in the provider's unit; must not decrease when a text grows
    caption_limit: int = 0  # the longest text beside media, as `length` counts
    kinds: frozenset[str] = frozenset({"text"})  # kinds of messages, of schemas.records.KINDS
    targeted: frozenset[str] = frozenset({"reaction"})  # kinds that need `reply_to`
    covers: bool = False  # whether a receipt READ means that everything before it in the thread was read too
    replies: bool = False  # whether other kinds may have `reply_to`
    media: Mapping[str, MediaLimit] = field(default_factory=dict)  # by kind of medium
    album: tuple[int, int] = (2, 10)  # fewest and most media of an album
    # for so many hours after a person wrote to an account, it may write freely to them; 0: the provider has no such window
    window_hours: int = 0
    # Whether an address is a group's: what one member writes is not the choice of all. Pure.
    is_group: Callable[[str], bool] = _is_no_group
    own_tenants: bool = False  # as WebhookItems.own_tenants

    @property
    def observed(self) -> Observed:
        """What can become known of a message after SENT."""
        return Observed(self.delivered, self.read, self.covers)

    @property
    def last_sign(self) -> Status:
        """The last status the channel can report for a message: the pipeline waits for no later one."""
        if self.read:
            return Status.READ
        return Status.DELIVERED if self.delivered else Status.SENT


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """One HTTP request of a provider. `headers` has lower-case names; `body` has the raw bytes, as signed, within the gateway's limit."""

    method: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Inbound:
    """One message that a person wrote to us. `at` is Unix time in milliseconds by the provider's clock."""

    channel: str
    account: str  # ours, as deliveries name it
    address: str  # the person's: a delivery to it reaches them
    # unique within channel and account: the provider repeats webhooks, and duplicates are found by it
    provider_message_id: str
    kind: str
    text: str
    at: int
    # what it has beyond the text; `reply_to` is the provider's id of the message it answers
    content: Content | None = None
    tenant_id: str = DEFAULT_TENANT  # used with `WebhookItems.own_tenants` only


@dataclass(frozen=True, slots=True)
class WebhookItems:
    """Everything in one webhook request, in its order."""

    receipts: tuple[Receipt, ...] = ()
    inbound: tuple[Inbound, ...] = ()
    # A name for each item that we cannot read or do not use. It never prevents the others, and has no address or text.
    unrecognised: tuple[str, ...] = ()
    # Items that we understand and that have no consequence. For the log, so without addresses and texts.
    notices: tuple[str, ...] = ()
    # What clients say about many deliveries at once; the gateway sets their home partition.
    reports: tuple[CursorReport, ...] = ()
    own_tenants: bool = (
        False  # whether receipts, messages and reports name their tenant; else the tenant of the account applies
    )
    # What people chose elsewhere than in a message, and what the provider says about reaching them (schemas/opt_out_policies.py).
    preferences: tuple[Preference, ...] = ()


class Forbidden(Exception):
    """The webhook request does not prove that it comes from the provider. The gateway answers with `status` and produces nothing.

    The text goes into the answer and the log: it must not quote the request.
    """

    status = 401


class ForbiddenItem(Forbidden):
    """The sender of the request is known, but may not report an item in it."""

    status = 403


class Connector(Protocol):
    """One channel. A process makes one instance for all its partitions, in or before its event loop; all calls are on that loop.

    Stage send calls `send` concurrently, up to CHAT4ALL_SEND_CONCURRENCY times, so it must be reentrant.
    """

    channel: str
    capabilities: Capabilities

    def check(self, delivery: Delivery) -> Rejected | None:
        """Why the provider could never accept this delivery (too long, no address, ...); None when it may.

        Pure, no I/O, must not raise: stage route calls it for every delivery in a turn. The same delivery gives the same answer.
        """
        ...

    def parts(self, delivery: Delivery) -> int:
        """How many calls the delivery needs: 1 for nearly all, more for media and text on Instagram or for a long text that is split.

        Pure, no I/O, must not raise, at least 1, and always the same for the same delivery: stage send makes the calls one after the other,
        each with its own intent, and continues with the next part after a crash. Only the last part makes the delivery SENT; the tracker
        of an earlier part has the mark `partial`.
        """
        ...

    async def send(self, delivery: Delivery, attempt: int, part: int = 0) -> Outcome:
        """Makes one call to the provider, for one part of the delivery, counted from 0. Never retries.

        `attempt` counts from 1 over all parts. Returns within CHAT4ALL_SEND_TIMEOUT_SECONDS. The Outcome must say on which side of "the
        request left" a failure is: RetryLater and Rejected mean surely not sent, Unknown means perhaps sent (schemas/outcomes.py). `check`
        applies here too: return its Rejected before any call.

        Raises nothing but cancellation. Stage send treats any other exception as Unknown. The worker cancels the call when it loses the
        partition or ends before the call does. The intent, committed before the call, then stays in the table: the next owner of the
        partition finds it without a result and handles its outcome as unknown (`Capabilities.unknown_policy`).
        """
        ...

    def parse_webhook(self, request: WebhookRequest, received_at: int) -> WebhookItems:
        """The items of a webhook request that proves its origin, within the limits of our records (`webhook_limits.trimmed_to_limits`).

        `received_at` is Unix milliseconds. Checks the proof on the raw body before it decodes anything. Raises Forbidden when the proof is
        wrong, and nothing else for any body: an item that cannot be read goes into `unrecognised`. (After any other exception the
        gateway answers 503, and the provider repeats the request.) Pure, no I/O. Providers repeat requests, so equal items must get equal
        ids (`Receipt.event_id`, `Preference.event_id`, `Inbound.provider_message_id`).
        """
        ...

    async def close(self) -> None:
        """Closes the pooled connections. Called once, on the event loop that used the connector, after the last call has ended."""
        ...


@runtime_checkable
class Challenged(Protocol):
    """A connector whose provider verifies the webhook with a GET request when it is set up."""

    def challenge(self, request: WebhookRequest) -> str:
        """The body of the answer (200, plain text). Raises Forbidden, which the gateway answers with 403, when the request does not prove
        that it comes from the provider. Pure, no I/O."""
        ...


@runtime_checkable
class Screening(Protocol):
    """A connector that can refuse a webhook request by its headers, before the gateway reads the body.

    `signs_bodies`: whether the proof is a signature of the body, which cannot be guessed. Otherwise it is a secret in a header, and
    the gateway applies its rate limit of each address to small requests too.
    """

    signs_bodies: bool

    def screen(self, headers: Mapping[str, str]) -> None:
        """Raises Forbidden for headers with which `parse_webhook` would raise it for every body; nothing else.

        `headers` has lower-case names. Pure, no I/O. `parse_webhook` must not rely on it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Polled:
    """An answer to `Polling.poll`. `items` has one entry for each update, in the provider's order; `position` is where the next call goes
    on: it confirms these updates."""

    items: tuple[WebhookItems, ...]
    position: str


@dataclass(frozen=True, slots=True)
class NotPolled:
    """No updates, because of `code`: one of webhook_set, other_poller, refused, throttled, unavailable, unreadable. `sentence` says what
    happened and what to do; it has no secret. `after_seconds` is the wait before the next call; None leaves it to the caller."""

    code: str
    sentence: str
    after_seconds: float | None = None


@runtime_checkable
class Polling(Protocol):
    """A connector that can ask its provider for what the provider would otherwise post to our webhook."""

    async def poll(self, position: str, wait_seconds: int, now: Callable[[], int]) -> Polled | NotPolled:
        """Makes one call for the updates from `position` on. The call confirms those before it: the provider forgets them.

        `position` is empty for all that the provider has, else that of a former Polled, whose updates must be stored. Without updates the
        provider answers after `wait_seconds`, 0 to 50. `now` gives Unix milliseconds. Items are as `parse_webhook` returns them: equal
        updates get equal ids, and what cannot be read goes into `unrecognised`. Raises nothing but cancellation; one call at a time.
        """
        ...


@dataclass(frozen=True, slots=True)
class Probed:
    """Whether the configured credentials work. `sentence` is for the operator and has no secret."""

    good: bool
    sentence: str


@runtime_checkable
class Probing(Protocol):
    """A connector whose provider has a harmless call that shows whether the credentials work."""

    async def probe(self) -> Probed:
        """Makes one such call; it sends nothing to a person and changes nothing. `chat4all channels test` runs it in an event loop of its
        own. Returns within CHAT4ALL_SEND_TIMEOUT_SECONDS; raises nothing but cancellation."""
        ...


@dataclass(frozen=True, slots=True)
class ProviderAnswer:
    """What a provider says about one message when it is asked.

    `receipts` are those that its webhooks would have brought, with the same event ids. If it gave no answer, `refusal` is the reason, a
    sentence without a secret; `is_final` then says that another question would be refused for the same reason.
    """

    receipts: tuple[Receipt, ...] = ()
    refusal: str = ""
    is_final: bool = False


@runtime_checkable
class Asking(Protocol):
    """A connector whose provider can be asked which statuses a message has had, in case its webhooks were lost."""

    async def ask(self, account: str, provider_message_id: str, received_at: int) -> ProviderAnswer:
        """Makes one harmless call about a message that our `account` sent. `received_at` is Unix milliseconds, for the receipts.

        Never retries. Returns within CHAT4ALL_SEND_TIMEOUT_SECONDS. Raises nothing but cancellation."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """A connector whose provider says how its webhooks to us fare, though it says nothing about a message."""

    async def webhook_state(self) -> str:
        """Makes one harmless call. A sentence for the operator without a secret. Otherwise as `Asking.ask`."""
        ...


@dataclass(frozen=True, slots=True)
class ChannelDeclaration:
    """What the module connectors/<channel>/connector.py declares about its channel, as its constant DECLARATION.

    Importing and reading it opens no connection and needs no token: stage route checks deliveries with it. Pass `send_settings` or
    `webhook_settings` to Settings.require before you call `build`.
    """

    capabilities: Capabilities
    check: Callable[[Delivery], Rejected | None]  # as Connector.check
    # our default account for deliveries that name none; empty when it is not configured
    account: Callable[[Settings], str]
    build: Callable[[Settings], Connector]  # no I/O: connections open at the first call
    send_settings: tuple[str, ...]  # names of the settings that sending needs, as in schemas.settings
    webhook_settings: tuple[str, ...]  # the same for webhooks
    # whether the gateway polls (the connector is a Polling) instead of receiving webhooks; then `webhook_settings` are not needed, but
    # `send_settings` are
    polls: Callable[[Settings], bool] = field(default=lambda _: False)
    # why the provider cannot be asked about a message; empty if its connector is `Asking`
    no_answers: str = "its provider has no call that tells what became of a message"
