"""What one partition of stage send has to do: its rows, and what follows from them.

A delivery for later waits outside of the lanes; it enters its lane when it is due and takes its place by sequence. How much is held is
bounded, and each tenant has a share: of all rows (above it deliveries wait in Kafka), of what waits for its time (above it a delivery is
refused, since it would keep the place for weeks), and of the worker's calls in flight. All but the rows is derived from them.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from pipelines.engine.stage import Room
from schemas.records import Delivery
from tables.fair_queue import Lane, place_of
from tables.lanes import Lanes, lane_of
from tables.outstanding import Outstanding, Phase
from tables.table import Table
from tables.tenant_quota import TenantQuota
from tables.timers import TenantTimers, Timers

FIRST_BACKOFF_MS = 1000
LONGEST_BACKOFF_MS = 60_000
TOGETHER = 64  # deliveries whose time has come, of all tenants in turn, between two looks at their bytes


@dataclass(frozen=True, slots=True)
class SendLimits:
    """Bounds of one partition of send; of calls, of all partitions of a worker together."""

    concurrency: int  # calls in flight; an eighth of them is out of reach for any single tenant
    outstanding: int  # rows of deliveries to send above which no further ones are taken; half of it for a tenant
    attempts: int  # failed attempts before a delivery is given up
    hold_ms: int  # how long an unknown outcome waits for evidence
    account: int = 1 << 30  # calls in flight to one account
    # rows of deliveries that wait for their time above which a further one is refused; half of it for a tenant. What it leaves may be
    # used by deliveries to send
    scheduled: int = 100_000
    scheduled_bytes: int = 256 * 1024 * 1024  # the same in bytes; deliveries to send may have as many again

    @property
    def calls_of_a_tenant(self) -> int:
        return self.concurrency - self.concurrency // 8


class State:
    """One partition of send."""

    def __init__(self, rows: Table[Outstanding], limits: SendLimits) -> None:
        self.rows = rows
        self.lanes = Lanes()
        self.timers = (
            TenantTimers()
        )  # delivery ids that wait for a time: their own, a retry's, the end of a hold, their end
        self.interrupted: list[str] = []  # intents whose result was lost
        # place -> until when the account takes nothing; forgotten at a restart, then learnt again
        self.blocked = Timers()
        self.held = TenantQuota(rows=limits.outstanding + limits.scheduled, size=2 * limits.scheduled_bytes)
        self.scheduled = TenantQuota(rows=limits.scheduled, size=limits.scheduled_bytes)
        self._limits = limits
        self._full: set[str] = set()  # places that had all the calls they may have: their lanes are not looked at
        self._free = 0  # calls this decision may still ask for
        self._running: Counter[str] = Counter()  # the worker's calls by share, those of this decision among them

    @classmethod
    def opened(cls, rows: Table[Outstanding], limits: SendLimits, in_flight: Collection[str]) -> "State":
        """The state of a partition from its committed rows; `in_flight` are delivery ids whose call this worker is making."""
        state = cls(rows, limits)
        # what was begun stays at the head of its lane
        for _, row in sorted(rows.items(), key=lambda item: (not item[1].attempt, item[1].delivery.seq)):
            state._derive(row)
            if row.phase is Phase.CALLING and row.delivery.delivery_id not in in_flight:  # else the call goes on
                state.interrupted.append(row.delivery.delivery_id)
        return state

    def has_room(self) -> bool:
        """Whether another delivery may be taken, whoever's it is."""
        return not self.held.is_full() and not self.held.is_any_share_full()

    def may_schedule(self, tenant: str) -> bool:
        return not self.scheduled.is_full() and not self.scheduled.is_share_full(tenant)

    def next_due(self) -> int | None:
        if self.interrupted:
            return 0
        unblocked = self.blocked.next_due() if self.lanes.any_blocked() else None
        return min((due for due in (self.timers.next_due(), unblocked) if due is not None), default=None)

    # --- rows -------------------------------------------------------------------------------------------------------------

    def take(self, row: Outstanding) -> None:
        """A new delivery: into its lane, or to wait for its time."""
        self.rows.put(row.delivery.delivery_id.encode(), row)
        self._derive(row)

    def enter(self, row: Outstanding) -> None:
        """The time of a scheduled delivery has come. The row keeps that, so that a restart finds the lane as it was."""
        delivery = row.delivery
        self.scheduled.remove(delivery.tenant_id, row.size)
        self.put(dataclasses.replace(row, not_before=0))
        self.lanes.add(delivery)

    def put(self, row: Outstanding) -> None:
        """A row in its lane has changed, and waits for what it says."""
        self.rows.put(row.delivery.delivery_id.encode(), row)
        self.remind(row)

    def end(self, row: Outstanding) -> None:
        delivery = row.delivery
        self.rows.delete(delivery.delivery_id.encode())
        self.timers.cancel(delivery.tenant_id, delivery.delivery_id)
        self.held.remove(delivery.tenant_id, row.size)
        if row.is_scheduled:
            self.scheduled.remove(delivery.tenant_id, row.size)
        else:
            self.lanes.remove(delivery)

    def remind(self, row: Outstanding) -> None:
        """When there is something to do for a delivery that waits: to try it, or to end it because its time is over."""
        delivery = row.delivery
        waits = row.phase is Phase.WAITING
        until = [row.not_before] if row.not_before and row.phase is not Phase.CALLING else []
        if waits and delivery.expires_at is not None:  # evidence of a held one may come after its time
            until.append(delivery.expires_at)
        if until:
            self.timers.set(delivery.tenant_id, delivery.delivery_id, min(until), rank=delivery.seq)
        else:
            self.timers.cancel(delivery.tenant_id, delivery.delivery_id)

    def _derive(self, row: Outstanding) -> None:
        """Everything that follows from a row that was not there before."""
        delivery = row.delivery
        self.held.add(delivery.tenant_id, row.size)
        if row.is_scheduled:
            self.scheduled.add(delivery.tenant_id, row.size)
        else:
            self.lanes.add(delivery)
            if row.attempt:
                self.lanes.begin(lane_of(delivery))
        self.remind(row)

    # --- calls ------------------------------------------------------------------------------------------------------------

    def wants_calls(self, room: Room) -> bool:
        """Whether a lane's head might be called with this room."""
        if room.free <= 0:
            return False
        if any(room.running.get(_account(place), 0) < self._limits.account for place in self._full):
            return True
        return self.lanes.any_ready(lambda tenant: self._is_busy(tenant, room.running))

    def admit(self, room: Room) -> None:
        """What the decision may call. Lanes of an account that has all its calls are put aside, as those of a blocked one."""
        self._free, self._running = room.free, Counter(room.running)
        for place in [place for place in self._full if self._running[_account(place)] < self._limits.account]:
            self._full.discard(place)
            if self.blocked.at(place) is None:
                self.lanes.unblock(place)

    def next_lane(self) -> Lane | None:
        """The lane whose turn it is to be looked at; None when no further call may be made."""
        return self.lanes.next_ready(lambda tenant: self._is_busy(tenant, self._running)) if self._free > 0 else None

    def has_calls_left(self, delivery: Delivery) -> bool:
        """Whether the delivery's account may have one call more; if not, its lanes wait until it may."""
        place = place_of(delivery)
        if self._running[_account(place)] < self._limits.account:
            return True
        self._full.add(place)
        self.lanes.ready(lane_of(delivery))
        self.lanes.block(place)
        return False

    def begin(self, row: Outstanding) -> tuple[str, ...]:
        """A call starts; `row` is its intent. Returns the shares the call counts in."""
        self.put(row)
        self.lanes.begin(lane_of(row.delivery))
        shares = (_account(place_of(row.delivery)), _tenant(row.delivery.tenant_id))
        self._free -= 1
        self._running.update(shares)
        return shares

    def block(self, delivery: Delivery, until: int) -> None:
        """The delivery's account takes nothing until then."""
        place = place_of(delivery)
        self.blocked.set(place, max(until, self.blocked.at(place) or 0))
        self.lanes.block(place)

    def take_due(self, now: int, at_most: int, most_bytes: int) -> Iterator[str]:
        """Delivery ids whose time has come, so many at most, and no more once their rows have that many bytes."""
        number = size = 0
        while (
            number < at_most
            and size < most_bytes
            and (taken := self.timers.take_due(now, min(TOGETHER, at_most - number)))
        ):
            rows = [self.rows.get(delivery_id.encode()) for delivery_id in taken]
            number += len(taken)
            size += sum(row.size for row in rows if row is not None)
            yield from taken

    def unblock(self, now: int) -> None:
        for place in self.blocked.take_due(now):
            if place not in self._full:
                self.lanes.unblock(place)

    def _is_busy(self, tenant: str, running: Mapping[str, int]) -> bool:
        return running.get(_tenant(tenant), 0) >= self._limits.calls_of_a_tenant


def _account(place: str) -> str:
    return f"account {place}"


def _tenant(name: str) -> str:
    return f"tenant {name}"


def backoff(row: Outstanding, times: int) -> int:
    """Exponential with jitter, milliseconds; the jitter comes from the ids, so that a decision stays a function of its inputs."""
    longest = min(LONGEST_BACKOFF_MS, FIRST_BACKOFF_MS << min(times, 10))
    spread = hashlib.blake2b(f"{row.delivery.delivery_id}{row.attempt}".encode(), digest_size=2).digest()
    return longest // 2 + longest * int.from_bytes(spread, "big") // 131_072
