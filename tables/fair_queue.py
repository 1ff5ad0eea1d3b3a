"""Lanes whose head might be called, in fair turn: by tenant, within a tenant by account, within an account the one that waits longest.

Derived, never stored. Lanes of a blocked account are kept apart and not looked at; to block or unblock an account costs the same
however many lanes it has.
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
    """`place` is a channel and an account on it, as `place_of` writes it. A lane waits once, at the place it was added to last."""

    def __init__(self) -> None:
        self._place_of: dict[Lane, str] = {}
        # tenant -> place -> lanes; what is first is next. An entry is void when the lane is no longer at that place
        self._turns: OrderedDict[str, OrderedDict[str, deque[Lane]]] = OrderedDict()
        self._blocked: dict[str, dict[str, deque[Lane]]] = {}  # place -> tenant -> lanes

    def add(self, lane: Lane, place: str) -> None:
        if self._place_of.get(lane) == place:
            return
        self._place_of[lane] = place
        if place in self._blocked:
            self._blocked[place].setdefault(lane.tenant_id, deque()).append(lane)
        else:
            self._turns.setdefault(lane.tenant_id, OrderedDict()).setdefault(place, deque()).append(lane)

    def discard(self, lane: Lane) -> None:
        self._place_of.pop(lane, None)

    def any(self, busy: Callable[[str], bool]) -> bool:
        """Whether there is one of a tenant that is not busy; true also when there is only something void to step over."""
        return any(not busy(tenant) for tenant in self._turns)

    def next(self, busy: Callable[[str], bool]) -> Lane | None:
        """Takes the next lane of a tenant that is not busy."""
        while (tenant := next((each for each in self._turns if not busy(each)), None)) is not None:
            place, lane = self._take(tenant)
            if self._place_of.get(lane) == place:
                del self._place_of[lane]
                return lane
        return None

    def any_blocked(self) -> bool:
        """Whether there may be one at a place that is blocked."""
        return any(self._blocked.values())

    def block(self, place: str) -> None:
        """No lane of the place is taken any more."""
        if place in self._blocked:
            return
        self._blocked[place] = {}
        for tenant, places in list(self._turns.items()):
            lanes = places.pop(place, None)
            if lanes is not None:
                self._blocked[place][tenant] = lanes
            if not places:
                del self._turns[tenant]

    def unblock(self, place: str) -> None:
        for tenant, lanes in self._blocked.pop(place, {}).items():
            self._turns.setdefault(tenant, OrderedDict())[place] = lanes

    def _take(self, tenant: str) -> tuple[str, Lane]:
        """The tenant's next lane; the tenant and the place go behind the others."""
        places = self._turns[tenant]
        place, lanes = next(iter(places.items()))
        lane = lanes.popleft()
        if lanes:
            places.move_to_end(place)
        else:
            del places[place]
        if places:
            self._turns.move_to_end(tenant)
        else:
            del self._turns[tenant]
        return place, lane


def place_of(delivery: Delivery) -> str:
    return f"{delivery.channel}:{delivery.account}"
