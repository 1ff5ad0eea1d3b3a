"""What of a partition's sources waits in Kafka unread, so that nothing handed over within a turn overtakes it.

In: where each source ended when the partition started, how far it is read, and what committed turns put there themselves. Out: the
topics that are behind. No I/O.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from pipelines.engine.batch_queue import Batch
from pipelines.engine.stage import Decision, Reading

Source = tuple[str, int]  # topic and partition


class UnreadSources:
    """Of one partition. `is_read_to(source, end, batches)` says whether the source was fetched up to `end`, and nothing of it waits but
    the `batches` that are in the turn."""

    def __init__(self) -> None:
        self._ends: dict[Source, int] = {}
        self._is_read_to: Callable[[Source, int, int], bool] = lambda *_: True
        self._mark = b""
        self._detours: Counter[str] = Counter()  # committed, and not come back yet

    def start(self, ends: Mapping[Source, int], is_read_to: Callable[[Source, int, int], bool], mark: bytes) -> None:
        """The partition starts anew. `ends` is where its sources end, open transactions included; `mark` is of no other start."""
        self._ends = dict(ends)
        self._is_read_to = is_read_to
        self._mark = mark
        self._detours.clear()

    def look(self, batches: Sequence[Batch], waiting: AbstractSet[str]) -> Reading:
        """As of a turn that takes these batches, while batches of the `waiting` topics wait for a later one."""
        if self._ends:
            taken = Counter((batch.records[0].topic, batch.records[0].partition) for batch in batches)
            for source, end in list(self._ends.items()):
                if source[0] not in waiting and self._is_read_to(source, end, taken[source]):
                    del self._ends[source]
        return Reading(frozenset([*(topic for topic, _ in self._ends), *self._detours]), self._mark)

    def committed(self, decision: Decision) -> None:
        """A turn has committed."""
        for topic, times in decision.detours.items():
            self._detours[topic] += times
        for topic, times in decision.returned.items():
            self._detours[topic] -= times
            if self._detours[topic] <= 0:
                del self._detours[topic]
