"""The classes of a provider's errors: what an error code means for the delivery, the account and the person who reads it.

What enters: the tables of the providers' error codes, one ErrorRule a code. What leaves: the same, for whoever turns them into outcomes.
"""

from dataclasses import dataclass
from enum import StrEnum

from schemas.outcomes import Rejected, RetryLater, Scope

CONFIGURATION_WAIT_SECONDS = 60.0
HOLD_WAIT_SECONDS = 900.0


class ErrorClass(StrEnum):
    """Classes of error: only transient and configuration count as failures of the channel."""

    THROTTLE = "throttle"  # we were too fast
    TRANSIENT = "transient"  # their fault, passes by itself
    PERMANENT = "permanent"  # this delivery will never be taken
    CONFIGURATION = "configuration"  # ours to correct; nothing flows on the account until then
    HOLD = "hold"  # the account is restrained for long; a person should look


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """What one error code means; `sentence` is what a person reads and does. After `tries` attempts it counts as permanent."""

    error_class: ErrorClass
    sentence: str
    scope: Scope = Scope.PAIR
    throttled: bool = False
    tries: int | None = None


def throttle(scope: Scope, sentence: str) -> ErrorRule:
    return ErrorRule(ErrorClass.THROTTLE, sentence, scope, throttled=True)


def transient(sentence: str, scope: Scope = Scope.PAIR, *, tries: int | None = None) -> ErrorRule:
    return ErrorRule(ErrorClass.TRANSIENT, sentence, scope, tries=tries)


def permanent(sentence: str) -> ErrorRule:
    return ErrorRule(ErrorClass.PERMANENT, sentence)


def configuration(sentence: str) -> ErrorRule:
    return ErrorRule(ErrorClass.CONFIGURATION, sentence, Scope.ACCOUNT)


def hold(sentence: str, *, throttled: bool = False, tries: int | None = None) -> ErrorRule:
    return ErrorRule(ErrorClass.HOLD, sentence, Scope.ACCOUNT, throttled, tries)


def to_outcome(rule: ErrorRule, code: str, after_seconds: float | None, tries: int = 1) -> RetryLater | Rejected:
    """The outcome that goes with a class; `after_seconds` is the provider's own wish and wins over the class's usual wait.

    `tries` counts the attempts so far, from 1.
    """
    if rule.error_class is ErrorClass.PERMANENT or (rule.tries is not None and tries >= rule.tries):
        return Rejected(code, rule.sentence)
    after = _USUAL_WAIT_SECONDS.get(rule.error_class) if after_seconds is None else after_seconds
    return RetryLater(rule.sentence, code, after, rule.throttled, rule.scope)


_USUAL_WAIT_SECONDS = {ErrorClass.CONFIGURATION: CONFIGURATION_WAIT_SECONDS, ErrorClass.HOLD: HOLD_WAIT_SECONDS}
