"""The lanes of one partition: the deliveries of one (conversation, recipient, channel), in sequence.

Derived from the table `outstanding`, never stored. Within a lane only the head may be called; a lane is `ready` when its head
might be.
"""

from bisect import insort
from collections import deque
from typing import NamedTuple

from schemas.records import Delivery


class Lane(NamedTuple):
    conversation_id: str
    address: str
    channel: str


class Lanes:
    """Which delivery of each lane is at its head, and which lanes to look at next, in fair turn."""

    def __init__(self) -> None:
        self._queues: dict[Lane, list[tuple[int, str]]] = {}
        self._ready: deque[Lane] = deque()
        self._queued: set[Lane] = set()

    def __len__(self) -> int:
        return len(self._queues)

    def add(self, delivery: Delivery) -> None:
        """Puts a delivery in its place of the lane, behind the head, which may be in flight; ready when it is the head itself."""
        lane = lane_of(delivery)
        queue = self._queues.setdefault(lane, [])
        entry = (delivery.seq, delivery.delivery_id)
        if not queue or entry > queue[-1]:
            queue.append(entry)
        else:
            insort(queue, entry, lo=1)
        if queue[0] == entry:
            self.ready(lane)

    def remove(self, delivery: Delivery) -> None:
        """A delivery has ended; the next one of its lane becomes the head."""
        lane = lane_of(delivery)
        queue = self._queues[lane]
        queue.remove((delivery.seq, delivery.delivery_id))
        if queue:
            self.ready(lane)
        else:
            del self._queues[lane]

    def head(self, lane: Lane) -> str | None:
        """Delivery id of the lane's head; None for a lane that has ended."""
        queue = self._queues.get(lane)
        return queue[0][1] if queue else None

    def ready(self, lane: Lane) -> None:
        if lane not in self._queued:
            self._queued.add(lane)
            self._ready.append(lane)

    def next_ready(self) -> Lane | None:
        """Takes the lane that has been ready for longest."""
        if not self._ready:
            return None
        lane = self._ready.popleft()
        self._queued.discard(lane)
        return lane

    def any_ready(self) -> bool:
        return bool(self._ready)


def lane_of(delivery: Delivery) -> Lane:
    return Lane(delivery.conversation_id, delivery.address, delivery.channel)
