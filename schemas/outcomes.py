"""What one attempt (one call to a provider) can come to: a closed union of four, returned by every connector, never raised.

Exactly one place maps an outcome to a row, a status and a wait: stage `send`.
"""

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """How far a throttle reaches: the whole app, one of our accounts, or one (account, recipient) pair."""

    APP = "app"
    ACCOUNT = "account"
    PAIR = "pair"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider took it. `provider_ids` are its ids of the message, in the order of the parts; empty only for what
    makes no message of its own (typing, mark_read, a reaction): SENT is then the last thing that is ever known of the delivery.
    """

    provider_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Surely not sent, and worth another try. `after_seconds` is the provider's own wish, None when it named none.

    `throttled` says we were too fast (nobody is broken); else it counts as a failure of the channel. `scope` says how
    far the wait reaches.
    """

    reason: str
    code: str
    after_seconds: float | None = None
    throttled: bool = False
    scope: Scope = Scope.PAIR


@dataclass(frozen=True, slots=True)
class Rejected:
    """Surely not sent, and no repetition of this delivery will ever be taken. `reason` is a sentence for a person."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Perhaps sent: the request left and no readable answer came. The channel's policy decides (hold, resend, fail)."""

    reason: str
    code: str = "unknown"


Outcome = Accepted | RetryLater | Rejected | Unknown
