"""The lanes of one partition: the deliveries of one (tenant, conversation, recipient, channel) that are due, in sequence.

Derived from the table `outstanding`, never stored. Within a lane only the head may be called, and a head that was called before stays
the head until it ends; a lane is `ready` when its head might be called.
"""

from bisect import bisect_left, insort
from collections.abc import Callable

from schemas.records import Delivery
from tables.fair_queue import FairQueue, Lane, place_of

Entry = tuple[int, str, str]  # sequence, delivery id, place


class Lanes:
    """Which delivery of each lane is at its head, and which lanes to look at next, in fair turn."""

    def __init__(self) -> None:
        self._queues: dict[Lane, list[Entry]] = {}
        self._begun: set[Lane] = set()  # lanes whose head was called before
        self._ready = FairQueue()

    def __len__(self) -> int:
        return len(self._queues)

    def add(self, delivery: Delivery) -> None:
        """Puts a delivery in its place of the lane, but never before a head that was called; ready when it is the head itself."""
        lane, entry = lane_of(delivery), _entry(delivery)
        queue = self._queues.setdefault(lane, [])
        insort(queue, entry, lo=1 if lane in self._begun else 0)
        if queue[0] is entry:
            self.ready(lane)

    def begin(self, lane: Lane) -> None:
        """The head of the lane is called, or was: nothing gets before it any more."""
        self._begun.add(lane)

    def remove(self, delivery: Delivery) -> None:
        """A delivery has ended; when it was the head, the next one of its lane becomes it."""
        lane, entry = lane_of(delivery), _entry(delivery)
        queue = self._queues[lane]
        if queue[0] != entry:
            del queue[bisect_left(queue, entry, lo=1)]
            return
        del queue[0]
        self._begun.discard(lane)
        if queue:
            self.ready(lane)
        else:
            del self._queues[lane]
            self._ready.discard(lane)

    def head(self, lane: Lane) -> str | None:
        """Delivery id of the lane's head; None for a lane that has ended."""
        queue = self._queues.get(lane)
        return queue[0][1] if queue else None

    def ready(self, lane: Lane) -> None:
        if lane in self._queues:
            self._ready.add(lane, self._queues[lane][0][2])

    def next_ready(self, busy: Callable[[str], bool] = lambda _: False) -> Lane | None:
        """Takes the lane whose turn it is, of a tenant that is not busy; never one whose head's account is blocked."""
        return self._ready.next(busy)

    def any_ready(self, busy: Callable[[str], bool] = lambda _: False) -> bool:
        return self._ready.any(busy)

    def any_blocked(self) -> bool:
        return self._ready.any_blocked()

    def block(self, place: str) -> None:
        """An account takes nothing: lanes whose head goes there are not ready until `unblock`."""
        self._ready.block(place)

    def unblock(self, place: str) -> None:
        self._ready.unblock(place)


def lane_of(delivery: Delivery) -> Lane:
    return Lane(delivery.tenant_id, delivery.conversation_id, delivery.address, delivery.channel)


def _entry(delivery: Delivery) -> Entry:
    return delivery.seq, delivery.delivery_id, place_of(delivery)
