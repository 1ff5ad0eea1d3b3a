"""Which sources of a partition have unread records in Kafka, so that no record handed over within a turn overtakes them.

Enters: where each source ended when the partition started, how far it is read, and how many records committed turns produced to it
themselves. Leaves: the topics that are behind (`Reading`). No I/O.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from pipelines.engine.batch_queue import Batch
from pipelines.engine.stage import Decision, Reading

Source = tuple[str, int]  # topic and partition


class UnreadSources:
    """The unread sources of one partition. `is_read_to(source, end, batches)` says whether the source was fetched up to `end`, and no batch
    of it waits except the `batches` in the turn."""

    def __init__(self) -> None:
        self._ends: dict[Source, int] = {}
        self._is_read_to: Callable[[Source, int, int], bool] = lambda *_: True
        self._mark = b""
        self._detours: Counter[str] = Counter()  # committed, and not read again yet

    def start(self, ends: Mapping[Source, int], is_read_to: Callable[[Source, int, int], bool], mark: bytes) -> None:
        """A new start of the partition. `ends` is where its sources end, open transactions included; no other start has the same `mark`."""
        self._ends = dict(ends)
        self._is_read_to = is_read_to
        self._mark = mark
        self._detours.clear()

    def look(self, batches: Sequence[Batch], waiting: AbstractSet[str]) -> Reading:
        """The reading of a turn that takes these batches, while batches of the `waiting` topics wait for a later turn."""
        if self._ends:
            taken = Counter((batch.records[0].topic, batch.records[0].partition) for batch in batches)
            for source, end in list(self._ends.items()):
                if source[0] not in waiting and self._is_read_to(source, end, taken[source]):
                    del self._ends[source]
        return Reading(frozenset([*(topic for topic, _ in self._ends), *self._detours]), self._mark)

    def committed(self, decision: Decision) -> None:
        """Notes a decision that has committed."""
        for topic, times in decision.detours.items():
            self._detours[topic] += times
        for topic, times in decision.returned.items():
            self._detours[topic] -= times
            if self._detours[topic] <= 0:
                del self._detours[topic]
