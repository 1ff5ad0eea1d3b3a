"""Time slots: the partitions of a worker do something one after the other, at intervals, in the order in which they ask.

In: a partition that has something to do. Out: how long it has to wait. Guaranteed: two slots are at least one interval apart; a partition
that asks again keeps its slot. A slot that its partition does not use is lost, and delays no other partition. No I/O.
"""

import time
from collections.abc import Callable


class TimeSlots:
    """The slots of one worker. With `interval_ms` 0, no partition waits. `clock` returns seconds and never goes back.

    Methods run on the worker's event loop and never block. A partition that is revoked keeps its slot, unused."""

    def __init__(self, interval_ms: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval_ms / 1000
        self._clock = clock
        self._free_at = 0.0  # time of the first free slot
        self._given: dict[int, float] = {}  # partition -> time of its slot

    def wait(self, partition: int) -> float:
        """Seconds until the partition's slot, 0 once it is reached. The first call takes the next free slot."""
        now = self._clock()
        if partition not in self._given:
            self._given[partition] = max(now, self._free_at)
            self._free_at = self._given[partition] + self._interval
        return max(0.0, self._given[partition] - now)

    def used(self, partition: int) -> None:
        """The partition acts now. If it had no slot or did not wait for it, the next free slot moves to one interval from now."""
        slot = self._given.pop(partition, None)
        now = self._clock()
        if slot is None or slot > now:
            self._free_at = max(self._free_at, now + self._interval)
