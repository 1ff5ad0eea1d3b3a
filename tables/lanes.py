"""The lanes of one partition. A lane holds the due deliveries of one (tenant, conversation, address, channel), in sequence.

Derived from the table `outstanding`, never stored: built again after a restore. Only the head of a lane may be called. A head that was
called once stays the head until its delivery ends. A lane is ready when its head may be called. Since when a delivery is the head is noted:
that is how long it waited for the deliveries before it. Times are Unix milliseconds and come from the caller.
"""

from bisect import bisect_left, insort
from collections.abc import Callable

from schemas.records import Delivery
from tables.fair_queue import FairQueue, Lane, place_of

Entry = tuple[int, str, str]  # sequence, delivery id, "channel:account"


class Lanes:
    """Knows the head of each lane, and which ready lane to take next so that every tenant and account gets its share.

    In memory only: nothing blocks. One thread at a time.
    """

    def __init__(self) -> None:
        self._queues: dict[Lane, list[Entry]] = {}
        self._called: set[Lane] = set()  # lanes whose head was called
        self._since: dict[
            Lane, int
        ] = {}  # when its head became the head; heads that were derived from rows are not in it
        self._began: int | None = None  # what counts for those
        self._ready = FairQueue()

    def __len__(self) -> int:
        return len(self._queues)

    def add(self, delivery: Delivery, now: int | None) -> None:
        """Inserts a delivery into its lane by sequence, but never before a head that was called. If it becomes the head, the lane is
        ready. `now` is None for a row that is found again: nobody knows since when it is the head."""
        lane, entry = lane_of(delivery), _entry(delivery)
        queue = self._queues.setdefault(lane, [])
        insort(queue, entry, lo=1 if lane in self._called else 0)
        if queue[0] is entry:
            self._first(lane, now)

    def begin(self, lane: Lane) -> None:
        """Notes that the head of the lane was called: no delivery is inserted before it from now on."""
        self._called.add(lane)

    def remove(self, delivery: Delivery, now: int) -> None:
        """Removes a delivery that ended at `now`. If it was the head, the next one becomes the head and the lane is ready. Raises KeyError
        if the lane is not known."""
        lane, entry = lane_of(delivery), _entry(delivery)
        queue = self._queues[lane]
        if queue[0] != entry:
            del queue[bisect_left(queue, entry, lo=1)]
            return
        del queue[0]
        self._called.discard(lane)
        if queue:
            self._first(lane, now)
        else:
            del self._queues[lane]
            self._since.pop(lane, None)
            self._ready.discard(lane)

    def look(self, now: int) -> None:
        """Notes the time of a turn: the first one counts for heads that were derived from rows."""
        if self._began is None:
            self._began = now

    def since(self, delivery: Delivery) -> int | None:
        """When the delivery became the head of its lane; None for one that is not the head, and before the first `look` for one that was
        derived from a row."""
        lane = lane_of(delivery)
        return self._since.get(lane, self._began) if self.head(lane) == delivery.delivery_id else None

    def of_conversation(self, tenant_id: str, conversation_id: str) -> list[tuple[Lane, list[str]]]:
        """The lanes of a conversation, each with its delivery ids, the head first. Looks at every lane, for the web views."""
        return [
            (lane, [delivery_id for _, delivery_id, _ in queue])
            for lane, queue in self._queues.items()
            if lane.conversation_id == conversation_id and lane.tenant_id == tenant_id
        ]

    def head(self, lane: Lane) -> str | None:
        """Delivery id of the lane's head; None for an empty lane."""
        queue = self._queues.get(lane)
        return queue[0][1] if queue else None

    def ready(self, lane: Lane) -> None:
        """Notes that the lane's head may be called; does nothing for an empty lane."""
        if lane in self._queues:
            self._ready.add(lane, self._queues[lane][0][2])

    def next_ready(self, busy: Callable[[str], bool] = lambda _: False) -> Lane | None:
        """Removes and returns the ready lane that is next. Lanes of busy tenants (`busy` gets the tenant) and lanes whose head goes out on
        a blocked account stay. None if there is no other."""
        return self._ready.next(busy)

    def any_ready(self, busy: Callable[[str], bool] = lambda _: False) -> bool:
        """Whether `next_ready` may have a lane to return. Also true if only stale entries are left."""
        return self._ready.any(busy)

    def any_blocked(self) -> bool:
        """Whether a ready lane may wait for a blocked account."""
        return self._ready.any_blocked()

    def block(self, place: str) -> None:
        """Blocks an account (`place` is "channel:account"): `next_ready` returns no lane whose head goes out on it until `unblock`."""
        self._ready.block(place)

    def unblock(self, place: str) -> None:
        """Ends a block; does nothing if there is none."""
        self._ready.unblock(place)

    def _first(self, lane: Lane, now: int | None) -> None:
        """The lane has another head."""
        if now is None:
            self._since.pop(lane, None)
        else:
            self._since[lane] = now
        self.ready(lane)


def lane_of(delivery: Delivery) -> Lane:
    """The lane a delivery belongs to."""
    return Lane(delivery.tenant_id, delivery.conversation_id, delivery.address, delivery.channel)


def _entry(delivery: Delivery) -> Entry:
    return delivery.seq, delivery.delivery_id, place_of(delivery)
