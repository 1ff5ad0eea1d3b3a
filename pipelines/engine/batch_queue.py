"""The batches of one partition that wait for a turn: what the next one takes, and what has to wait.

Batches of a source come in offset order and are taken in it. A source the stage does not take now waits with everything behind it; until
the stage's first sources were read to their end, nothing else is taken. No I/O.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from pipelines.engine.stage import Record


class BatchEvent(Protocol):
    """A batch of one source partition as it comes through Faust; `epoch` tells of which start of the partitions it is."""

    topic: str
    partition: int
    value: Any  # a list of Record
    epoch: int


class GroupConsumer(Protocol):
    """What a worker asks of its membership in the group. `in_flight` counts the batches between fetch and commit, by source."""

    in_flight: Counter[tuple[str, int]]

    @property
    def generation(self) -> int:
        """Of the group, as this worker knows it."""

    def news(self) -> None:
        """Records arrived, or a batch was released."""

    async def members(self) -> set[str]:
        """The transactional ids of the group's members."""


@dataclass(slots=True)
class Batch:
    """Records of one source partition that wait for a turn. `release` tells the transport that they are done with."""

    records: list[Record]
    release: Callable[[], None]

    def split(self, at: int) -> "tuple[Batch, Batch]":
        """The records before and after; the transport hears of it when the latter are done with."""
        return Batch(self.records[:at], lambda: None), Batch(self.records[at:], self.release)


class BatchQueue:
    """`takes` says whether the stage takes a source now; `first` are the sources it reads to their end before any other."""

    def __init__(self, *, takes: Callable[[str], bool], first: Iterable[str]) -> None:
        self.held = (
            False  # whether the last look took nothing although something waits, because the stage does not take it
        )
        self._takes = takes
        self._first = frozenset(first)
        self._waiting_for_first = bool(self._first)
        self._caught_up: Callable[[], bool] = lambda: True
        self._batches: deque[Batch] = deque()

    def start(self, caught_up: Callable[[], bool]) -> None:
        self._caught_up = caught_up
        self._waiting_for_first = bool(self._first)

    def add(self, batch: Batch) -> None:
        self._batches.append(batch)

    def put_back(self, batches: list[Batch]) -> None:
        """Batches that were taken come again, before all others."""
        self._batches.extendleft(reversed(batches))

    def records(self) -> int:
        """How many wait."""
        return sum(len(batch.records) for batch in self._batches)

    def topics(self) -> set[str]:
        """Of what waits."""
        return {batch.records[0].topic for batch in self._batches}

    def clear(self) -> list[Batch]:
        """Forgets every batch; returns them."""
        batches = list(self._batches)
        self._batches.clear()
        return batches

    def take(self, usual: int, at_most: int | None) -> list[Batch]:
        """Batches for a turn of about `usual` records, whole ones; with `at_most` no record more than that, a batch cut if need be."""
        taken: list[Batch] = []
        kept: deque[Batch] = deque()
        passed_over: set[str] = set()
        refused = False
        size = 0
        while self._batches:
            batch = self._batches.popleft()
            topic = batch.records[0].topic
            if topic in passed_over or size >= (at_most or usual) or not self._may_take(topic):
                refused = refused or (topic not in passed_over and size < (at_most or usual))
                passed_over.add(topic)  # what follows from the same topic must not overtake it
                kept.append(batch)
                continue
            if at_most is not None and len(batch.records) > at_most - size:
                batch, rest = batch.split(at_most - size)
                self._batches.appendleft(rest)
            taken.append(batch)
            size += len(batch.records)
        self._batches = kept
        self.held = refused and not taken and not self._waiting_for_first
        return taken

    def _may_take(self, topic: str) -> bool:
        if self._waiting_for_first and topic not in self._first:
            self._waiting_for_first = not self._caught_up()
            if self._waiting_for_first:
                return False
        return self._takes(topic)
