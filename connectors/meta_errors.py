"""The outcomes of answers of Meta's Graph API that are not a success: shared by its channels.

What enters: an Answer and the channel's table of error codes. What leaves: RetryLater, Rejected or Unknown. The error code decides, not the
HTTP status (documented and observed statuses differ). A code that is not in the table is decided by the status, is counted, and gets the
code unknown_<code>. Guaranteed: pure except for that counter; sentences are ours, because Meta's own text may be in any language and may
quote the message or the address.
https://developers.facebook.com/docs/graph-api/guides/error-handling
"""

from collections.abc import Mapping

from connectors.error_classes import (
    CONFIGURATION_WAIT_SECONDS,
    ErrorClass,
    ErrorRule,
    configuration,
    hold,
    permanent,
    throttle,
    to_outcome,
    transient,
)
from connectors.http_calls import Answer, ErrorDetails
from connectors.json_fields import Node, Unexpected, decode, optional_text, whole
from schemas import metrics
from schemas.outcomes import Rejected, RetryLater, Scope, Unknown

PAIR_WAIT_LIMIT_SECONDS = 1024.0
_LONGEST_REGAIN_MINUTES = 24 * 60
# Rules by code, or by code and subcode where the subcode decides.
Table = Mapping[int | tuple[int, int], ErrorRule]

_PERMISSION = configuration("permission for this call is missing or was removed: grant it to the app at Meta")
# Codes of every Graph API; 200 to 299 are permissions. https://developers.facebook.com/docs/graph-api/guides/error-handling
GRAPH: Table = {
    0: configuration("Meta could not authenticate us: set a valid access token"),
    1: transient("Meta reports an unknown error: a fault of its own, or a request that it cannot read", tries=3),
    2: transient("Meta's API is down or overloaded"),
    3: configuration("the app lacks the capability for this call: check its permissions at Meta"),
    4: throttle(Scope.APP, "the app reached Meta's call limit"),
    10: _PERMISSION,
    17: throttle(Scope.ACCOUNT, "the user of the token reached Meta's call limit"),
    32: throttle(Scope.ACCOUNT, "the page reached Meta's call limit"),
    100: permanent("Meta finds a parameter of the request invalid"),
    190: configuration("the access token expired or was revoked: set a valid one"),
    368: hold(
        "Meta blocked the account for some time because it broke Meta's policies: see the account's quality page"
    ),
    613: throttle(Scope.ACCOUNT, "the account reached a call limit of Meta's API"),
    803: configuration("the account id is unknown at Meta: check the configured account"),
    **dict.fromkeys(range(200, 300), _PERMISSION),
}


def envelope(answer: Answer) -> Node | None:
    """The error object of an answer, None when there is none."""
    body = answer.json()
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else None


def error_details(answer: Answer) -> ErrorDetails:
    """For the call log: code and subcode, and Meta's trace id."""
    error = envelope(answer)
    trace = answer.headers.get("x-fb-trace-id") or answer.headers.get("x-fb-request-id")
    if error is None:
        return ErrorDetails(None if answer.status == 200 else f"http_{answer.status}", trace)
    codes = [str(error[name]) for name in ("code", "error_subcode") if isinstance(error.get(name), int)]
    return ErrorDetails("/".join(codes) or "?", optional_text(error, "fbtrace_id") or trace)


def outcome(answer: Answer, table: Table, channel: str, tries: int) -> RetryLater | Rejected | Unknown:
    """The outcome of an answer that is not a success.

    `tries` counts the attempts so far, from 1: it ends retries of some errors and sets the wait of the pair limit. Raises nothing.
    """
    error = envelope(answer)
    if error is None:
        return _by_status(answer, None)
    try:
        code = whole(error, "code")
    except Unexpected:
        return _by_status(answer, None)
    rule = table.get((code, _subcode(error))) or table.get(code)
    if rule is None:
        metrics.UNKNOWN_ERRORS.labels(channel).inc()
        return _by_status(answer, code, transient=error.get("is_transient") is True)
    return to_outcome(rule, str(code), _wait(rule, answer, tries), tries)


def _subcode(error: Node) -> int:
    try:
        return whole(error, "error_subcode")
    except Unexpected:
        return 0


def _wait(rule: ErrorRule, answer: Answer, tries: int) -> float | None:
    """Seconds that the answer asks for or the documentation prescribes; None leaves the wait to the class of the error."""
    requested = answer.retry_after()
    if requested is not None or rule.error_class is not ErrorClass.THROTTLE:
        return requested
    if rule.scope is Scope.PAIR:
        # https://developers.facebook.com/docs/whatsapp/cloud-api/overview#pair-rate-limits: wait 4^X seconds, X = 0, 1, 2 ...
        return float(min(4 ** min(max(tries - 1, 0), 10), PAIR_WAIT_LIMIT_SECONDS))
    return _regain(answer)


def _regain(answer: Answer) -> float | None:
    """Seconds until the account may call again, from the usage header, whose unit is minutes; None without a usable header.

    https://developers.facebook.com/docs/graph-api/overview/rate-limiting#headers-2
    """
    usage = decode(answer.headers.get("X-Business-Use-Case-Usage", "").encode("utf-8", "replace"))
    accounts = usage.values() if isinstance(usage, dict) else ()
    uses = [use for listed in accounts if isinstance(listed, list) for use in listed if isinstance(use, dict)]
    minutes = [use.get("estimated_time_to_regain_access") for use in uses]
    longest = max((each for each in minutes if isinstance(each, int)), default=0)
    return 60.0 * min(longest, _LONGEST_REGAIN_MINUTES) if longest > 0 else None


def _by_status(answer: Answer, code: int | None, *, transient: bool = False) -> RetryLater | Rejected | Unknown:
    """The outcome by HTTP status, without a known code. A 4xx without Meta's envelope comes from a proxy in front of Meta: not accepted."""
    status, after = answer.status, answer.retry_after()
    name = f"http_{status}" if code is None else f"unknown_{code}"
    answered = f"HTTP {status}" if code is None else f"HTTP {status} with the unknown error code {code}"
    if status == 429:
        return RetryLater(f"Meta answered {answered}: too many calls", name, after, throttled=True, scope=Scope.ACCOUNT)
    if status in (408, 425) or (transient and 400 <= status < 500):
        return RetryLater(f"Meta answered {answered}: not accepted, may be tried again", name, after)
    if code is not None and 400 <= status < 500 and status not in (401, 403, 404, 407):
        return Rejected(name, f"Meta refused with {answered}")
    if status == 413:
        return Rejected(name, "the request is too large for Meta")
    if 300 <= status < 500:
        wait = CONFIGURATION_WAIT_SECONDS if after is None else after
        sentence = f"Meta answered {answered}: check the base URL, version, account and token"
        return RetryLater(sentence, name, wait, scope=Scope.ACCOUNT)
    return Unknown(f"Meta answered {answered}: it may have accepted the message", name)
