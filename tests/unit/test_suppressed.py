"""Table `suppressed`: any order and repetition of reports ends in the same suppression, and the wish of a person outlives a block."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.opt_out_policies import BLOCKED, NOT_RECEIVING, START_WORD, STOP_WORD, UNBLOCKED, USER_PREFERENCES, WROTE
from tables.suppressed import SUPPRESSED, SuppressedAddress, reported

NOBODY = SuppressedAddress("t", "telegram", "4242", "5005")
LATER = 1_000_000
REASONS = {
    STOP_WORD: (True,),
    START_WORD: (False,),
    USER_PREFERENCES: (True, False),
    BLOCKED: (True,),
    UNBLOCKED: (False,),
    NOT_RECEIVING: (True,),
    WROTE: (False,),
}


class Report(NamedTuple):
    reason: str
    stops: bool
    at: int


REPORTS = st.lists(
    st.builds(Report, st.just(""), st.just(False), st.integers(0, 5)).flatmap(
        lambda each: st.sampled_from([(reason, stops) for reason, both in REASONS.items() for stops in both]).map(
            lambda kind: Report(*kind, each.at)
        )
    ),
    max_size=12,
)


def after(reports: list[Report], row: SuppressedAddress = NOBODY) -> SuppressedAddress:
    for each in reports:
        row = reported(row, each.reason, each.at, LATER, stops=each.stops)
    return row


@given(REPORTS, st.data())
def test_any_order_and_repetition_ends_in_the_newest_by_time(reports: list[Report], data: st.DataObject) -> None:
    mixed = data.draw(st.permutations(reports + data.draw(st.lists(st.sampled_from(reports))) if reports else reports))
    row = after(mixed)
    assert row == after(reports)
    wishes = [each for each in reports if each.reason in (STOP_WORD, START_WORD, USER_PREFERENCES)]
    reach = [each for each in reports if each not in wishes]
    # the reference: the newest report of each kind; at the same time, the one that stops
    stops = [max((each.at, each.stops) for each in kind)[1] for kind in (wishes, reach) if kind]
    assert row.is_suppressed is any(stops)
    assert (row.lifted_at is None) is (row.is_suppressed or not reports)


@given(REPORTS)
def test_a_row_is_read_as_it_was_written(reports: list[Report]) -> None:
    row = after(reports)
    assert SUPPRESSED.decode(SUPPRESSED.encode(row)) == row


@pytest.mark.parametrize(
    ("reports", "reason"),
    [
        ([Report(STOP_WORD, True, 1)], STOP_WORD),
        ([Report(STOP_WORD, True, 1), Report(START_WORD, False, 2)], None),
        ([Report(START_WORD, False, 2), Report(STOP_WORD, True, 1)], None),
        ([Report(STOP_WORD, True, 1), Report(BLOCKED, True, 2), Report(UNBLOCKED, False, 3)], STOP_WORD),
        ([Report(STOP_WORD, True, 1), Report(WROTE, False, 3)], STOP_WORD),
        ([Report(BLOCKED, True, 1), Report(START_WORD, False, 2)], BLOCKED),
        ([Report(NOT_RECEIVING, True, 1), Report(WROTE, False, 2)], None),
        ([Report(USER_PREFERENCES, True, 1), Report(START_WORD, False, 2)], None),
        ([Report(STOP_WORD, True, 1), Report(USER_PREFERENCES, False, 2)], None),
    ],
)
def test_what_is_in_force(reports: list[Report], reason: str | None) -> None:
    row = after(reports)
    assert (row.reason if row.is_suppressed else None) == reason


def test_an_older_report_returns_the_row_itself() -> None:
    row = after([Report(STOP_WORD, True, 5)])
    assert reported(row, START_WORD, 4, LATER, stops=False) is row
    assert reported(row, STOP_WORD, 5, LATER, stops=True) is row
