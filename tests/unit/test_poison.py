"""The search for poison, by a partition that only decides: which records are found, with how many decisions, and when it stops the
stage."""

from math import ceil, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.poison import ENOUGH, LIMIT, Isolation, NotData, raised_where
from pipelines.engine.stage import Record
from tests.support.builders import examples, raw


def records(number: int) -> list[Record]:
    return [raw("a", b"", offset=offset) for offset in range(number)]


def decide_all(isolation: Isolation, given: list[Record], bad: set[int]) -> tuple[list[int], int]:
    """Turns until nothing is left: the offsets refused in order, and how many decisions that took."""
    left, refused, decisions = list(given), [], 0
    while left or isolation.at_most:
        taken = left[: isolation.at_most or len(left)]
        decisions += 1
        found = next((record for record in taken if record.offset in bad), None)
        if found is None:
            refused += isolation.decided(len(taken))
            left = left[len(taken) :]
        elif isolation.raised(taken, ValueError(f"bad {found.offset}")):
            left = left[1:]
    return [refusal.record.offset for refusal in refused], decisions


@examples(200)
@given(st.integers(1, 300), st.sets(st.integers(0, 299)))
def test_poison_is_found_in_order_and_nothing_else(number: int, bad: set[int]) -> None:
    refused, _ = decide_all(Isolation("toy", 0), records(number), bad)
    assert refused == sorted(offset for offset in bad if offset < number)


@examples(200)
@given(st.integers(1, 5000).flatmap(lambda number: st.tuples(st.just(number), st.integers(0, number - 1))))
def test_one_poison_record_costs_as_many_decisions_as_halving_does(case: tuple[int, int]) -> None:
    number, bad = case
    refused, decisions = decide_all(Isolation("toy", LIMIT), records(number), {bad})
    assert refused == [bad]
    # the turn that raised, the halves, the record, the next record, the rest
    assert decisions <= 1 + ceil(log2(number)) + 3


def test_a_row_of_poison_costs_one_decision_each() -> None:
    refused, decisions = decide_all(Isolation("toy", 0), records(1000), set(range(500, 520)))
    assert len(refused) == 20
    assert decisions <= 1 + 10 + 20 + 2


def test_too_many_in_a_row_stop_the_stage_over_turns_and_a_good_record_resets_the_row() -> None:
    isolation = Isolation("toy", 3)
    decide_all(isolation, records(2), {0, 1})
    decide_all(isolation, records(1), set())
    decide_all(isolation, records(4), {0, 1, 2})
    decide_all(isolation, records(1), set())
    for _ in range(3):
        decide_all(isolation, records(1), {0})
    with pytest.raises(NotData, match="4 records in a row"):
        decide_all(isolation, records(1), {0})


@pytest.mark.parametrize("every", [4, 6])
def test_a_share_of_poison_stops_the_stage_once_enough_was_seen(every: int) -> None:
    """One of 4 is above the share of 0.2, one of 6 is below."""
    isolation, bad = Isolation("toy", LIMIT), set(range(0, 3000, every))
    refused, _ = decide_all(isolation, records(ENOUGH - every), bad)
    assert len(refused) >= 8, "too early to say"
    if every == 6:
        assert len(decide_all(isolation, records(3000), bad)[0]) == 500
        return
    with pytest.raises(
        NotData, match=r"a bug in the code of stage toy, not data: 1 records in a row, 1. of the last 5"
    ):
        decide_all(isolation, records(3000), bad)


def test_old_poison_is_forgotten() -> None:
    isolation = Isolation("toy", LIMIT)
    for _ in range(5):
        decide_all(isolation, records(200), set(range(185, 200)))


def test_what_was_not_committed_does_not_count() -> None:
    isolation = Isolation("toy", 2)
    for _ in range(5):
        assert isolation.raised(records(1), ValueError())
        assert isolation.raised(records(1), ValueError())
        isolation.forget()
    assert isolation.at_most is None
    assert isolation.decided(1) == []


def test_an_error_without_a_record_stops_the_stage() -> None:
    with pytest.raises(
        NotData, match="it raises without any record, on its state, a timer or a call's result: KeyError;"
    ):
        Isolation("toy", LIMIT).raised([], KeyError("x"))


def test_where_it_was_raised() -> None:
    with pytest.raises(IndexError) as raised:
        records(-1)[0]
    assert "IndexError: list index out of range (unit/test_poison.py:" in raised_where(raised.value)
    assert raised_where(ValueError("never raised, and quotes a text")) == "ValueError"
