"""The batches of one partition that wait for a turn.

Enters: batches, those of a source in offset order. Leaves: the batches for the next turn, in the same order. Guaranteed: a source that the
stage does not take now waits with all its later batches; until the stage's first sources have been read to their end, no other source is
taken. No I/O.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from pipelines.engine.stage import Record


class BatchEvent(Protocol):
    """A batch of one source partition as it comes through Faust. `epoch` is the number of the start of the partitions that it belongs
    to."""

    topic: str
    partition: int
    value: Any  # a list of Record
    epoch: int


class GroupConsumer(Protocol):
    """What the engine needs of the transport. `in_flight` counts, by source, the batches between fetch and commit. For the event loop."""

    in_flight: Counter[tuple[str, int]]

    @property
    def generation(self) -> int:
        """The group's generation as this worker knows it."""

    def news(self) -> None:
        """Wakes the transport: records have arrived, or a batch was released."""

    async def members(self) -> set[str]:
        """The transactional ids of the group's members, as Kafka's coordinator says now. May raise any error of the client."""


@dataclass(slots=True)
class Batch:
    """Records of one source partition that wait for a turn; never empty. `release` is to be called once, when their turn is over."""

    records: list[Record]
    release: Callable[[], None]

    def split(self, at: int) -> "tuple[Batch, Batch]":
        """The records before and after; only the latter batch releases."""
        return Batch(self.records[:at], lambda: None), Batch(self.records[at:], self.release)


class BatchQueue:
    """The queue of one partition. `takes` says whether the stage takes a topic now; `first` are the topics that it reads to their ends
    before any other. `held` says whether the last `take` returned nothing although batches wait, because the stage does not take them."""

    def __init__(self, *, takes: Callable[[str], bool], first: Iterable[str]) -> None:
        self.held = False
        self._takes = takes
        self._first = frozenset(first)
        self._waiting_for_first = bool(self._first)
        self._caught_up: Callable[[], bool] = lambda: True
        self._batches: deque[Batch] = deque()

    def start(self, caught_up: Callable[[], bool]) -> None:
        """A new start of the partition; `caught_up` says whether its first sources were read to their ends."""
        self._caught_up = caught_up
        self._waiting_for_first = bool(self._first)

    def add(self, batch: Batch) -> None:
        self._batches.append(batch)

    def put_back(self, batches: list[Batch]) -> None:
        """Puts batches that were taken before all others."""
        self._batches.extendleft(reversed(batches))

    def records(self) -> int:
        """How many records wait."""
        return sum(len(batch.records) for batch in self._batches)

    def topics(self) -> set[str]:
        """The topics of the batches that wait."""
        return {batch.records[0].topic for batch in self._batches}

    def clear(self) -> list[Batch]:
        """Removes and returns every batch."""
        batches = list(self._batches)
        self._batches.clear()
        return batches

    def take(self, usual: int, at_most: int | None) -> list[Batch]:
        """Batches for a turn: whole ones until they have `usual` records. With `at_most`, no more records than that; a batch may be
        split."""
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
                passed_over.add(topic)  # later batches of the same topic must not overtake it
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
