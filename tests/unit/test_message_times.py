"""The times of a message: which ones route refuses, with which error, and which ones the delivery gets."""

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.registry import CHANNELS
from pipelines.recipients import Reachable
from pipelines.route import Route, State
from schemas.causes import DESCRIPTIONS
from schemas.message_times import CLOCK_SKEW_MS, OLDEST_REPORT_MS, happened_at, is_plausible, time_contradiction
from schemas.records import Delivery
from tests.support.builders import NOW, PARTITIONS, Desk, decoded, examples, message, record, refused

DAY_MS = 86_400_000


def a_desk() -> Desk[State]:
    channels = {"whatsapp": Reachable("acc-wa", CHANNELS["whatsapp"].check)}
    return Desk(Route(partitions=PARTITIONS, dedupe_ms=7 * DAY_MS, channels=channels))


NO_TIMES: Mapping[str, tuple[int | None, int | None, str]] = {
    "begin in seconds": (NOW // 1000 + 60, None, "not_before is .* before the year 2001.*looks like seconds"),
    "begin in microseconds": (NOW * 1000, None, "not_before is .* more than 35 days ahead.*looks like microseconds"),
    "begin in nanoseconds": (NOW * 1_000_000, None, "looks like nanoseconds"),
    "end in seconds": (None, NOW // 1000 + 60, "expires_at is .*looks like seconds"),
    "end in microseconds": (None, (NOW + DAY_MS) * 1000, "expires_at is .*looks like microseconds"),
    "end in nanoseconds": (None, (NOW + DAY_MS) * 1_000_000, "expires_at is .*looks like nanoseconds"),
    "one millisecond too far": (NOW + 35 * DAY_MS + 1, None, r"35 days ahead: .*Unix milliseconds \(now is \d+\)$"),
    "an end too far": (NOW, NOW + 36 * DAY_MS, "expires_at is .*35 days ahead"),
    "the largest number": (2**63 - 1, None, r"\(now is \d+\)$"),
    "a duration": (60_000, None, r"before the year 2001: .*\(now is \d+\)$"),
    "below zero": (-1, None, r"before the year 2001: .*\(now is \d+\)$"),
    "the smallest number": (None, -(2**63), "before the year 2001"),
    "an end at the begin": (NOW + 5, NOW + 5, "could never be sent"),
    "an end before the begin": (NOW + 6, NOW + 5, "could never be sent"),
}


@pytest.mark.parametrize(("not_before", "expires_at", "sentence"), NO_TIMES.values(), ids=NO_TIMES)
def test_times_that_cannot_be_meant_are_refused_with_the_unit(
    not_before: int | None, expires_at: int | None, sentence: str
) -> None:
    desk = a_desk()
    decision = desk.turn([record("messages", message(not_before=not_before, expires_at=expires_at))])
    assert refused(decision) == ["invalid_time"]
    assert "invalid_time" in DESCRIPTIONS
    assert re.search(sentence, decision.refusals[0].detail)
    assert decision.outputs == []
    assert desk.rows("sequences") == {}


TIMES: Mapping[str, tuple[int | None, int | None]] = {
    "none": (None, None),
    "zeros, as some languages write none": (0, 0),
    "at once": (NOW, NOW + 1),
    "past": (NOW - 90 * DAY_MS, NOW - DAY_MS),
    "as far as may be": (NOW + 35 * DAY_MS - 1, NOW + 35 * DAY_MS),
}


@pytest.mark.parametrize(("not_before", "expires_at"), TIMES.values(), ids=TIMES)
def test_valid_times_are_in_the_delivery(not_before: int | None, expires_at: int | None) -> None:
    decision = a_desk().turn([record("messages", message(not_before=not_before, expires_at=expires_at))])
    (each,) = decoded(decision.outputs, "deliveries.whatsapp", Delivery)
    assert (each.not_before, each.expires_at) == (not_before or None, expires_at or None)


@given(value=st.integers(-(2**63), 2**63 - 1), days=st.floats(0.001, 400))
@examples(300)
def test_a_time_is_taken_only_between_2001_and_the_setting(value: int, days: float) -> None:
    ahead = int(days * DAY_MS)
    taken = time_contradiction(value, None, NOW, ahead) is None
    assert taken == (value == 0 or 978_307_200_000 <= value <= NOW + ahead)


REPORTED = {
    "a little earlier": (NOW - 2000, NOW - 2000),
    "after days in which we could not be reached": (NOW - OLDEST_REPORT_MS, NOW - OLDEST_REPORT_MS),
    "by a clock that is a little ahead": (NOW + CLOCK_SKEW_MS, NOW),
    "by a clock that is far ahead": (NOW + CLOCK_SKEW_MS + 1, None),
    "longer ago than any provider repeats": (NOW - OLDEST_REPORT_MS - 1, None),
    "in seconds": (NOW // 1000, None),
    "in 1970": (0, None),
    "next year": (NOW + 365 * 86_400_000, None),
}


@pytest.mark.parametrize(("reported", "plausible"), REPORTED.values(), ids=REPORTED)
def test_what_a_provider_reports_counts_if_it_can_be_right(reported: int, plausible: int | None) -> None:
    assert is_plausible(reported, NOW) is (plausible is not None)
    assert happened_at(reported, NOW) == (NOW if plausible is None else plausible)
