"""Two sorted streams as one, and the rule that decides what is looked at again."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks.check_look import Databases, Look
from sinks.check_result import MOST, Difference, Found, merged
from sinks.check_run import run_checks

STREAMS = st.lists(st.tuples(st.integers(0, 9), st.text(max_size=2)), max_size=15).map(
    lambda rows: sorted(rows, key=lambda r: r[0])
)


@settings(max_examples=60)
@given(STREAMS, STREAMS)
def test_each_key_comes_once_in_order_with_all_its_values(
    left: list[tuple[int, str]], right: list[tuple[int, str]]
) -> None:
    wanted: dict[int, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, rows in enumerate((left, right)):
        for key, value in rows:
            wanted[key][side].append(value)
    assert list(merged(left, right)) == [(key, *wanted[key]) for key in sorted(wanted)]


class NoDatabases(Databases):
    """Looks at nothing: the checks below bring what they find."""

    def __init__(self) -> None:
        super().__init__("", "", 1)

    @contextmanager
    def look(self) -> Iterator[Look]:
        yield Look.__new__(Look)


@dataclass
class Finds:
    """A check that finds one set of ids after the other."""

    finds: list[set[str]]
    is_exact: bool = False
    looks: int = 1
    name: str = "finds"
    asked: list[int] = field(default_factory=list)

    def first(self, look: Look) -> Found:  # noqa: ARG002  # of the protocol
        found = Found(compared="ids")
        for each in sorted(self.finds[0]):
            found.add(Difference((each,), "differs"))
        return found

    def again(self, look: Look, before: Sequence[Difference]) -> list[Difference]:  # noqa: ARG002  # the same
        self.asked.append(len(before))
        left = self.finds[len(self.asked)]
        return [each for each in before if each.key[0] in left]


def run(check: Finds, behind: str = "") -> tuple[Any, int]:
    waited = []

    def wait() -> str:
        waited.append(1)
        return behind

    [result], _ = run_checks([check], NoDatabases(), wait)
    return result, len(waited)


def test_equal_stores_are_not_waited_for() -> None:
    result, waited = run(Finds([set()]))
    assert (result.result, waited) == ("ok", 0)


def test_a_difference_that_goes_away_is_none() -> None:
    result, waited = run(Finds([{"a", "b"}, {"b", "c"}]))
    assert (result.result, [each.key for each in result.shown], waited) == ("DIFFERS", [("b",)], 1)
    assert run(Finds([{"a"}, set()]))[0].result == "ok"


def test_what_is_of_one_moment_counts_at_once() -> None:
    check = Finds([{"a"}], is_exact=True)
    result, waited = run(check)
    assert (result.result, waited, check.asked) == ("DIFFERS", 0, [])


@pytest.mark.parametrize(("again", "said"), [({"a"}, "open"), (set(), "ok")])
def test_while_a_sink_is_behind_a_difference_is_open(again: set[str], said: str) -> None:
    assert run(Finds([{"a"}, again]), behind="analyse has not passed")[0].result == said


def test_a_roll_up_must_differ_in_each_look() -> None:
    check = Finds([{"a", "b"}, {"a", "b"}, {"b"}], looks=2)
    assert [each.key for each in run(check)[0].shown] == [("b",)]


def test_of_more_differences_than_fit_only_the_least_number_is_known() -> None:
    found = Found()
    for n in range(MOST + 5):
        found.add(Difference((str(n),), ""))
    assert (found.total, len(found.differences)) == (MOST + 5, MOST)
