"""Meta's error tables against the documentation: every code has its class, and no other code is in a table."""

from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from multidict import CIMultiDict

from connectors import meta_errors
from connectors.error_classes import ErrorClass
from connectors.http_calls import Answer
from connectors.instagram.errors import INSTAGRAM
from connectors.whatsapp.errors import WHATSAPP
from schemas import metrics
from schemas.outcomes import Rejected, RetryLater, Scope, Unknown

GRAPH: Mapping[ErrorClass, tuple[Any, ...]] = {
    ErrorClass.CONFIGURATION: (0, 190, 3, 10, *range(200, 300), 803),
    ErrorClass.TRANSIENT: (1, 2),
    ErrorClass.THROTTLE: (4, 17, 32, 613),
    ErrorClass.PERMANENT: (100, 33),
    ErrorClass.HOLD: (368,),
}
OF_WHATSAPP: Mapping[ErrorClass, tuple[Any, ...]] = {
    ErrorClass.CONFIGURATION: (131005, 131031, 131037, 131042, 131045, *range(133000, 133004), *range(133005, 133011), 133015, 133016),
    ErrorClass.TRANSIENT: (131000, 131016, 131053, 131057, 133004),
    ErrorClass.THROTTLE: (80007, 130429, 131056, 132069),
    ErrorClass.PERMANENT: (
        130472, 130497, 131008, 131009, 131021, 131026, 131030, 131047, 131049, 131050, 131051, 131052, 131062, 132000, 132001,
        132005, 132007, 132008, 132012, 132015, 132016, 132068, 134011, 135000, 137000,
    ),
    ErrorClass.HOLD: (131048, 131064),
}  # fmt: skip  # lists of codes, several on a line
OF_INSTAGRAM: Mapping[ErrorClass, tuple[Any, ...]] = {
    ErrorClass.CONFIGURATION: tuple((190, sub) for sub in (458, 459, 460, 463, 464, 467)),
    ErrorClass.TRANSIENT: (1200, (100, 2018047)),
    ErrorClass.THROTTLE: (80002, 80006),
    ErrorClass.PERMANENT: (
        (10, 2534022), (10, 2018278), (10, 2018065), (100, 33), (100, 2534014), (100, 2018001), (100, 2018074), 551, 36000,
    ),
    ErrorClass.HOLD: (),
}  # fmt: skip  # lists of codes, several on a line


@pytest.mark.parametrize(
    ("table", "own"), [(WHATSAPP, OF_WHATSAPP), (INSTAGRAM, OF_INSTAGRAM)], ids=["whatsapp", "instagram"]
)
def test_every_code_has_its_class(table: meta_errors.Table, own: Mapping[ErrorClass, tuple[Any, ...]]) -> None:
    for error_class in ErrorClass:
        assert {code for code, rule in table.items() if rule.error_class is error_class} == {
            *GRAPH[error_class],
            *own[error_class],
        }
    assert all(len(rule.sentence) > 20 for rule in table.values())


def test_a_throttle_has_the_scope_of_its_limit() -> None:
    scopes = {code: rule.scope for code, rule in WHATSAPP.items() if rule.error_class is ErrorClass.THROTTLE}
    assert [code for code, scope in scopes.items() if scope is Scope.PAIR] == [131056]
    assert [code for code, scope in scopes.items() if scope is Scope.APP] == [4]
    assert {
        rule.scope for rule in WHATSAPP.values() if rule.error_class in (ErrorClass.CONFIGURATION, ErrorClass.HOLD)
    } == {Scope.ACCOUNT}


def answer(status: int, body: object, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, CIMultiDict(named), orjson.dumps(body))


def test_an_unknown_code_is_counted_and_named() -> None:
    def counted() -> float:
        found = metrics.UNKNOWN_ERRORS.labels("whatsapp")._value.get()
        return float(found)

    before = counted()
    outcome = meta_errors.outcome(answer(400, {"error": {"code": 424242}}), WHATSAPP, "whatsapp", 1)
    assert outcome == Rejected("unknown_424242", "Meta refused with HTTP 400 with the unknown error code 424242")
    meta_errors.outcome(answer(400, {"error": {"code": 131047}}), WHATSAPP, "whatsapp", 1)
    meta_errors.outcome(answer(502, None), WHATSAPP, "whatsapp", 1)
    assert counted() == before + 1, "once, and neither for a code of the table nor for an answer without one"


@pytest.mark.parametrize("tries", [-3, 0, 1, 7, 10**9])
def test_the_wait_for_a_pair_is_bounded(tries: int) -> None:
    outcome = meta_errors.outcome(answer(400, {"error": {"code": 131056}}), WHATSAPP, "whatsapp", tries)
    assert isinstance(outcome, RetryLater)
    assert outcome.after_seconds is not None
    assert 1 <= outcome.after_seconds <= 1024


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ('{"1": [{"estimated_time_to_regain_access": 5}, {"estimated_time_to_regain_access": 2}]}', 300.0),
        ('{"1": [{"estimated_time_to_regain_access": 99999999}]}', 86_400.0),
        ('{"1": [{"estimated_time_to_regain_access": -1}]}', None),
        ('{"1": [{"estimated_time_to_regain_access": "5"}], "2": 7, "3": [null]}', None),
        ("[]", None),
        ("{", None),
        ("", None),
    ],
)
def test_the_usage_header_sets_the_wait(header: str, wait: float | None) -> None:
    throttled = answer(400, {"error": {"code": 80007}}, X_Business_Use_Case_Usage=header)
    outcome = meta_errors.outcome(throttled, WHATSAPP, "whatsapp", 1)
    assert isinstance(outcome, RetryLater)
    assert outcome.after_seconds == wait


@pytest.mark.parametrize("code", ["x", None, 1.5, True, [], {}, 10**30])
def test_a_code_that_is_none_falls_back_by_status(code: object) -> None:
    whole = not isinstance(code, int) or isinstance(code, bool)
    body = {"error": {"code": code if whole else str(code), "error_subcode": code if whole else "x"}}
    assert meta_errors.outcome(answer(500, body), WHATSAPP, "whatsapp", 1) == Unknown(
        "Meta answered HTTP 500: it may have accepted the message", "http_500"
    )
