"""The outcome of one attempt (one call to a provider): one of four classes. Every connector returns an outcome and never raises one.

Only stage `send` decides what an outcome means for the delivery's row, its status and the next attempt.
"""

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """What a throttle applies to: the whole app, one of our accounts, or one pair of account and recipient."""

    APP = "app"
    ACCOUNT = "account"
    PAIR = "pair"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider accepted the message. `provider_ids` are its ids, in the order of the parts.

    They are empty only for kinds that make no message at the provider (typing, mark_read, a reaction): SENT is then the last status that
    such a delivery can get.
    """

    provider_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Certainly not sent, and a retry may succeed. `after_seconds` is the wait that the provider asks for; None if it names none.

    `throttled` means that we sent too fast; otherwise the attempt counts as a failure. `scope` says what has to wait. `reason` is a
    sentence for a person, `code` the provider's error code.
    """

    reason: str
    code: str
    after_seconds: float | None = None
    throttled: bool = False
    scope: Scope = Scope.PAIR


@dataclass(frozen=True, slots=True)
class Rejected:
    """Certainly not sent, and a retry of this delivery cannot succeed. `reason` is a sentence for a person, `code` the provider's code.

    `suppresses` is set if no other message would reach the person now either: why, as a reason of schemas/opt_out_policies.py.
    """

    code: str
    reason: str
    suppresses: str | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """Perhaps sent: the request was sent, and no readable answer came. The channel's policy decides what follows (hold, resend or fail)."""

    reason: str
    code: str = "unknown"


Outcome = Accepted | RetryLater | Rejected | Unknown
