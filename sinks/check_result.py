"""What `chat4all check` finds: differences, and the result of each check.

Enters: nothing. Leaves: plain values, and the two rules that decide what counts. Pure.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sinks.check_look import Look

SHOWN = 20  # differences that a result names
MOST = 100_000  # differences of a check that are looked at a second time; of more, only their number is known

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs: its ids, a sentence, and `seen`, the newest version (or sequence) that one side had."""

    key: Key
    said: str
    seen: int = 0


@dataclass(slots=True)
class Found:
    """What one look found: at most MOST differences, how many there were, and what was compared, in words."""

    differences: list[Difference] = field(default_factory=list)
    total: int = 0
    compared: str = ""

    def add(self, difference: Difference) -> None:
        self.total += 1
        if len(self.differences) < MOST:
            self.differences.append(difference)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check. `total` is exact unless `at_least`. `is_open`: the differences may be records that a sink has not written
    yet, because the sinks did not pass them in time; then nobody can say."""

    name: str
    compared: str
    total: int = 0
    shown: tuple[Difference, ...] = ()
    at_least: bool = False
    is_open: bool = False

    @property
    def result(self) -> str:
        return "ok" if not self.total else "open" if self.is_open else "DIFFERS"


class Check(Protocol):
    """One comparison. `is_exact`: what a single look finds is a difference for sure, because both sides are of one moment. `looks`: how
    often it must be found again otherwise."""

    @property
    def name(self) -> str: ...
    @property
    def is_exact(self) -> bool: ...
    @property
    def looks(self) -> int: ...

    def first(self, look: Look) -> Found:
        """Compares everything in the scope."""

    def again(self, look: Look, before: Sequence[Difference]) -> list[Difference]:
        """Which of these differences are still there, given that both sinks have written all that either side had then."""


def merged(
    left: Iterable[tuple[Any, Any]], right: Iterable[tuple[Any, Any]]
) -> Iterator[tuple[Any, list[Any], list[Any]]]:
    """Two streams of (key, value), each in the order of its keys, as one: each key with its values on both sides. Holds the values of one
    key at a time. A key that is there several times has several values. Pure."""
    ends: list[Any] = [object(), object()]
    streams = [iter(left), iter(right)]
    heads = [next(stream, end) for stream, end in zip(streams, ends, strict=True)]
    while any(head is not end for head, end in zip(heads, ends, strict=True)):
        key = min(head[0] for head, end in zip(heads, ends, strict=True) if head is not end)
        sides: tuple[list[Any], list[Any]] = [], []
        for number, values in enumerate(sides):
            while heads[number] is not ends[number] and heads[number][0] == key:
                values.append(heads[number][1])
                heads[number] = next(streams[number], ends[number])
        yield key, *sides
