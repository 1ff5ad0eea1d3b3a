"""What Meta's Graph API means by an answer that is not a success: shared by its channels.

What enters: an Answer and the channel's table of error codes. What leaves: RetryLater, Rejected or Unknown. The code decides, not the
HTTP status (documented and observed statuses disagree); an unknown code falls back by status. Sentences are ours: Meta's own text may
quote the message or the address.
https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes
"""

from collections.abc import Mapping

from connectors.exchange import Answer, Told
from connectors.faults import (
    CONFIGURATION_WAIT_SECONDS,
    HOLD_WAIT_SECONDS,
    Fault,
    Meaning,
    configuration,
    hold,
    permanent,
    throttle,
    transient,
)
from connectors.shape import Node, Unexpected, child, node, optional_text, whole
from schemas.outcomes import Rejected, RetryLater, Scope, Unknown

PAIR_WAIT_LIMIT_SECONDS = 1024.0

Table = Mapping[int, Meaning]

# Codes every Graph API shares. https://developers.facebook.com/docs/graph-api/guides/error-handling
GRAPH: Table = {
    0: configuration("Meta could not authenticate us: set a valid access token"),
    1: transient("Meta reports an unknown error of its API"),
    2: transient("Meta's API is down or overloaded"),
    3: configuration("the app lacks the capability for this call: check its permissions at Meta"),
    4: throttle(Scope.APP, "the app reached Meta's call limit"),
    10: configuration("permission for this call is missing or was removed: grant it to the app at Meta"),
    17: throttle(Scope.ACCOUNT, "the user reached Meta's call limit"),
    32: throttle(Scope.ACCOUNT, "the page reached Meta's call limit"),
    33: permanent("the business number of this delivery was deleted at Meta"),
    100: permanent("Meta finds a parameter of the request invalid"),
    190: configuration("the access token expired or was revoked: set a valid one"),
    368: hold("Meta blocked the account for a while for breaking its policies: see the account's quality page"),
    613: throttle(Scope.ACCOUNT, "the account reached a call limit of Meta's API"),
    803: configuration("the account id is unknown at Meta: check the configured account"),
}


def envelope(answer: Answer) -> Node | None:
    """The error object of an answer, None when it holds none."""
    try:
        return child(node(answer.json(), "answer"), "error")
    except Unexpected:
        return None


def told(answer: Answer) -> Told:
    """For the exchange log: code and subcode, and Meta's trace id."""
    error = envelope(answer)
    trace = answer.headers.get("x-fb-trace-id") or answer.headers.get("x-fb-request-id")
    if error is None:
        return Told(None if answer.status == 200 else f"http_{answer.status}", trace)
    codes = [str(error[name]) for name in ("code", "error_subcode") if isinstance(error.get(name), int)]
    return Told("/".join(codes) or "?", optional_text(error, "fbtrace_id") or trace)


def outcome(answer: Answer, table: Table, attempt: int) -> RetryLater | Rejected | Unknown:
    """What an answer without success means. `attempt` counts from 1 and sets the wait of the pair limit."""
    error = envelope(answer)
    if error is None:
        return _by_status(answer, None)
    try:
        code = whole(error, "code")
    except Unexpected:
        return _by_status(answer, None)
    meaning = table.get(code)
    if meaning is None and 200 <= code <= 299:
        meaning = table[10]  # the whole range is about permissions
    if meaning is None:
        return _by_status(answer, code, transient=error.get("is_transient") is True)
    return _settled(meaning, code, answer, attempt)


def _settled(meaning: Meaning, code: int, answer: Answer, attempt: int) -> RetryLater | Rejected:
    if meaning.fault is Fault.PERMANENT:
        return Rejected(str(code), meaning.sentence)
    after = answer.retry_after()
    if after is None:
        after = _wait(meaning, attempt)
    return RetryLater(meaning.sentence, str(code), after, meaning.throttled, meaning.scope)


def _wait(meaning: Meaning, attempt: int) -> float | None:
    """The wait that goes with the class of an error when the answer names none; None leaves it to the stage's back-off."""
    if meaning.fault is Fault.CONFIGURATION:
        return CONFIGURATION_WAIT_SECONDS
    if meaning.fault is Fault.HOLD:
        return HOLD_WAIT_SECONDS
    if meaning.fault is Fault.THROTTLE and meaning.scope is Scope.PAIR:
        # https://developers.facebook.com/docs/whatsapp/cloud-api/overview#pair-rate-limits: wait 4^X seconds, X = 0, 1, 2 ...
        return float(min(4 ** min(max(attempt - 1, 0), 10), PAIR_WAIT_LIMIT_SECONDS))
    return None


def _by_status(answer: Answer, code: int | None, *, transient: bool = False) -> RetryLater | Rejected | Unknown:
    """The fallback: no code of ours. Without Meta's envelope a 4xx comes from something before Meta, which took nothing."""
    status, after = answer.status, answer.retry_after()
    name = f"http_{status}" if code is None else str(code)
    told = f"HTTP {status}" if code is None else f"HTTP {status} with the unknown error code {code}"
    if status == 429:
        return RetryLater(f"Meta answered {told}: too many calls", name, after, throttled=True, scope=Scope.ACCOUNT)
    if status in (408, 425) or (transient and 400 <= status < 500):
        return RetryLater(f"Meta answered {told}: not taken, worth another try", name, after)
    if code is not None and 400 <= status < 500 and status not in (401, 403, 404, 407):
        return Rejected(name, f"Meta refused with {told}")
    if status == 413:
        return Rejected(name, "the request is too large for Meta")
    if 300 <= status < 500:
        wait = CONFIGURATION_WAIT_SECONDS if after is None else after
        sentence = f"Meta answered {told}: check the base URL, version, account and token"
        return RetryLater(sentence, name, wait, scope=Scope.ACCOUNT)
    return Unknown(f"Meta answered {told}: it may have taken the message")
