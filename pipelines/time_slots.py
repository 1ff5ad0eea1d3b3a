"""Slots in time: the partitions of a worker come one after the other, at a distance, in the order in which they ask.

In: who has something to do. Out: how long it is to wait. Guaranteed: no two slots are nearer to each other than the distance; who asks
again keeps its slot. No I/O; a slot that nobody uses any more is lost and holds up nobody.
"""

import time
from collections.abc import Callable


class TimeSlots:
    """Of one worker. `distance_ms` 0 lets everybody pass. `clock` gives seconds and never goes back."""

    def __init__(self, distance_ms: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._distance = distance_ms / 1000
        self._clock = clock
        self._free_at = 0.0  # when the first slot is that nobody has
        self._given: dict[int, float] = {}  # partition -> when its slot is

    def wait(self, partition: int) -> float:
        """Seconds until the partition's slot, 0 when it has come; the first call takes the next free one."""
        now = self._clock()
        if partition not in self._given:
            self._given[partition] = max(now, self._free_at)
            self._free_at = self._given[partition] + self._distance
        return max(0.0, self._given[partition] - now)

    def used(self, partition: int) -> None:
        """The partition has done it. One that had no slot, or did not wait for it, moves those that are not given yet."""
        slot = self._given.pop(partition, None)
        now = self._clock()
        if slot is None or slot > now:
            self._free_at = max(self._free_at, now + self._distance)
