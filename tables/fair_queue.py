"""A queue of ready lanes that alternates between tenants, and for each tenant between accounts; for one account it is first in, first out.

Derived, never stored. Lanes of a blocked account are kept apart and not visited. The time to block or unblock an account does not depend on
the number of its lanes, only on the number of tenants.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

from schemas.records import Delivery


class Lane(NamedTuple):
    """The deliveries of one conversation to one address on one channel, in sequence."""

    tenant_id: str
    conversation_id: str
    address: str
    channel: str


class FairQueue:
    """`place` is an account of a channel, "channel:account" (`place_of`). A lane is in the queue once, under the place it was added to
    last."""

    def __init__(self) -> None:
        self._place_of: dict[Lane, str] = {}
        # tenant -> place -> lanes, each in the order to take them. An entry is stale if the lane is no longer under that place.
        self._tenants: OrderedDict[str, OrderedDict[str, deque[Lane]]] = OrderedDict()
        self._blocked: dict[str, dict[str, deque[Lane]]] = {}  # place -> tenant -> lanes

    def add(self, lane: Lane, place: str) -> None:
        """Puts the lane behind the others of its tenant and place; does nothing if it is there already."""
        if self._place_of.get(lane) == place:
            return
        self._place_of[lane] = place
        if place in self._blocked:
            self._blocked[place].setdefault(lane.tenant_id, deque()).append(lane)
        else:
            self._tenants.setdefault(lane.tenant_id, OrderedDict()).setdefault(place, deque()).append(lane)

    def discard(self, lane: Lane) -> None:
        """Removes the lane if it is in the queue; its entry becomes stale."""
        self._place_of.pop(lane, None)

    def any(self, busy: Callable[[str], bool]) -> bool:
        """Whether there is a lane of a tenant that is not busy. Also true if only stale entries are left."""
        return any(not busy(tenant) for tenant in self._tenants)

    def next(self, busy: Callable[[str], bool]) -> Lane | None:
        """Removes and returns the next lane of a tenant that is not busy; None if there is none."""
        while (tenant := next((each for each in self._tenants if not busy(each)), None)) is not None:
            place, lane = self._take(tenant)
            if self._place_of.get(lane) == place:
                del self._place_of[lane]
                return lane
        return None

    def any_blocked(self) -> bool:
        """Whether a lane may wait under a blocked place. Also true if only stale entries are left."""
        return any(self._blocked.values())

    def block(self, place: str) -> None:
        """Keeps the lanes of the place back until `unblock`; does nothing if it is blocked already."""
        if place in self._blocked:
            return
        self._blocked[place] = {}
        for tenant, places in list(self._tenants.items()):
            lanes = places.pop(place, None)
            if lanes is not None:
                self._blocked[place][tenant] = lanes
            if not places:
                del self._tenants[tenant]

    def unblock(self, place: str) -> None:
        """Returns the lanes of the place to the queue, behind those of other places; does nothing if it is not blocked."""
        for tenant, lanes in self._blocked.pop(place, {}).items():
            self._tenants.setdefault(tenant, OrderedDict())[place] = lanes

    def _take(self, tenant: str) -> tuple[str, Lane]:
        """Takes the tenant's next entry, and moves the tenant and the place behind the others."""
        places = self._tenants[tenant]
        place, lanes = next(iter(places.items()))
        lane = lanes.popleft()
        if lanes:
            places.move_to_end(place)
        else:
            del places[place]
        if places:
            self._tenants.move_to_end(tenant)
        else:
            del self._tenants[tenant]
        return place, lane


def place_of(delivery: Delivery) -> str:
    """The account a delivery goes out on, as "channel:account"."""
    return f"{delivery.channel}:{delivery.account}"
