"""Errors of Telegram that are not in our table are decided by their status and counted; those in the table are not counted."""

from typing import Any

import orjson
import pytest

from connectors.http_calls import Answer
from connectors.telegram import errors as telegram_errors
from schemas import metrics
from schemas.outcomes import Rejected, RetryLater


def _answer(status: int, description: str, **more: Any) -> Answer:
    return Answer(status, {}, orjson.dumps({"ok": False, "error_code": status, "description": description, **more}))


def _counted() -> float:
    return float(metrics.UNKNOWN_ERRORS.labels("telegram")._value.get())


@pytest.mark.parametrize(
    ("status", "description", "kind", "unknown"),
    [
        (400, "Bad Request: chat not found", Rejected, 0),
        (429, "Too Many Requests: retry after 3", RetryLater, 0),
        (401, "Unauthorized", RetryLater, 0),
        (400, "Bad Request: something quite new", Rejected, 1),
        (403, "Forbidden: something quite new", Rejected, 1),
        (406, "Not Acceptable", RetryLater, 1),
    ],
)
def test_only_unknown_errors_are_counted(status: int, description: str, kind: type, unknown: int) -> None:
    before = _counted()
    assert isinstance(telegram_errors.outcome(_answer(status, description)), kind)
    assert _counted() - before == unknown


@pytest.mark.parametrize(
    ("description", "logged"),
    [
        ("Bad Request: chat not found", "400/chat_not_found"),
        ("Bad Request: SOMETHING_NEW_INVALID", "400/SOMETHING_NEW_INVALID"),
        ("Bad Request: words of a person", "400"),
    ],
)
def test_the_call_log_names_a_refusal_without_quoting_it(description: str, logged: str) -> None:
    assert telegram_errors.error_details(_answer(400, description)).error == logged
