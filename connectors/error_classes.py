"""The classes of a provider's errors: what an error code means for the delivery, for the account and for the operator.

The channels' errors.py build their tables from these rules, one ErrorRule for each code; `to_outcome` makes an outcome of a rule. Pure.
"""

from dataclasses import dataclass
from enum import StrEnum

from schemas.outcomes import Rejected, RetryLater, Scope

CONFIGURATION_WAIT_SECONDS = 60.0
HOLD_WAIT_SECONDS = 900.0


class ErrorClass(StrEnum):
    """Classes of errors. The class decides the outcome; `ErrorRule.throttled` decides whether an attempt counts as a failure."""

    THROTTLE = "throttle"  # we sent too fast
    TRANSIENT = "transient"  # the provider's fault; it passes by itself
    PERMANENT = "permanent"  # the provider will never accept this delivery
    CONFIGURATION = "configuration"  # the operator must correct it; until then the account can send nothing
    HOLD = "hold"  # the provider restricts the account for a longer time; the operator should look at it


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """What one error code means. `sentence` says to the operator what happened and what to do.

    `scope` is what has to wait: the pair of account and recipient, the account or the app. After `tries` attempts the error counts as
    permanent. `suppresses` is set if the error is about the person, not about the message (schemas/outcomes.py, Rejected).
    """

    error_class: ErrorClass
    sentence: str
    scope: Scope = Scope.PAIR
    throttled: bool = False
    tries: int | None = None
    suppresses: str | None = None


def throttle(scope: Scope, sentence: str) -> ErrorRule:
    return ErrorRule(ErrorClass.THROTTLE, sentence, scope, throttled=True)


def transient(sentence: str, scope: Scope = Scope.PAIR, *, tries: int | None = None) -> ErrorRule:
    return ErrorRule(ErrorClass.TRANSIENT, sentence, scope, tries=tries)


def permanent(sentence: str, *, suppresses: str | None = None) -> ErrorRule:
    return ErrorRule(ErrorClass.PERMANENT, sentence, suppresses=suppresses)


def configuration(sentence: str) -> ErrorRule:
    return ErrorRule(ErrorClass.CONFIGURATION, sentence, Scope.ACCOUNT)


def hold(sentence: str, *, throttled: bool = False, tries: int | None = None) -> ErrorRule:
    return ErrorRule(ErrorClass.HOLD, sentence, Scope.ACCOUNT, throttled, tries)


def to_outcome(rule: ErrorRule, code: str, after_seconds: float | None, tries: int = 1) -> RetryLater | Rejected:
    """The outcome of an error. `after_seconds` is the wait that the provider asks for; it overrides the default wait of the class.

    `code` is the outcome's code. `tries` counts the attempts so far, from 1.
    """
    if rule.error_class is ErrorClass.PERMANENT or (rule.tries is not None and tries >= rule.tries):
        return Rejected(code, rule.sentence, rule.suppresses)
    after = _DEFAULT_WAIT_SECONDS.get(rule.error_class) if after_seconds is None else after_seconds
    return RetryLater(rule.sentence, code, after, rule.throttled, rule.scope)


_DEFAULT_WAIT_SECONDS = {ErrorClass.CONFIGURATION: CONFIGURATION_WAIT_SECONDS, ErrorClass.HOLD: HOLD_WAIT_SECONDS}
