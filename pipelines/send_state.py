"""The state of one partition of stage send: its rows, and lanes, timers and quotas derived from them.

In: rows of table `outstanding` and changes to them. Out: which calls may start, and when a turn is due. A scheduled delivery waits
outside the lanes; when it is due, it enters its lane at the place of its sequence number. Guaranteed: rows, scheduled rows and calls in
flight are bounded, and each tenant has a share of each. Above the bound of rows, deliveries wait in Kafka. Above the bound of scheduled
rows, a delivery is refused, because it would occupy its place for weeks. No I/O.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from pipelines.engine.stage import Room
from pipelines.send_windows import KnownWindows
from schemas.records import Delivery
from tables.fair_queue import Lane, place_of
from tables.lanes import Lanes, lane_of
from tables.outstanding import Outstanding, Phase
from tables.table import Table
from tables.tenant_quota import TenantQuota
from tables.timers import TenantTimers, Timers

FIRST_BACKOFF_MS = 1000
LONGEST_BACKOFF_MS = 60_000
DUE_AT_ONCE = 64  # due deliveries, of all tenants in turn, between two checks of their bytes


@dataclass(frozen=True, slots=True)
class SendLimits:
    """Bounds of one partition of send; those of calls are for all partitions of a worker together."""

    concurrency: int  # calls in flight; a single tenant may have seven eighths of them
    outstanding: int  # rows of deliveries to send; at the bound no further one is taken. A tenant may have half
    attempts: int  # failed attempts before a delivery is given up
    hold_ms: int  # how long an unknown outcome waits for evidence
    account: int = 1 << 30  # calls in flight to one account
    not_receiving_ms: int = 86_400_000  # how long a provider is believed that nothing reaches a person
    # rows of scheduled deliveries; at the bound a further one is refused. A tenant may have half. Deliveries to send may use the
    # free rest
    scheduled: int = 100_000
    scheduled_bytes: int = 256 * 1024 * 1024  # the same bound in bytes; deliveries to send may have as many again

    @property
    def calls_of_a_tenant(self) -> int:
        return self.concurrency - self.concurrency // 8


class State:
    """One partition of send. Its methods run within `decide`, on the worker's event loop. Times are Unix milliseconds, sizes bytes."""

    def __init__(self, rows: Table[Outstanding], limits: SendLimits, windows: KnownWindows) -> None:
        self.rows = rows
        self.windows = windows
        self.lanes = Lanes()
        # delivery ids that wait for a time: a scheduled start, a retry, the end of a hold, their expiry
        self.timers = TenantTimers()
        self.interrupted: list[str] = []  # intents whose result was lost
        # account -> until when it takes no calls; not stored: after a restart the next refusal of the provider sets it again
        self.blocked = Timers()
        self.held = TenantQuota(rows=limits.outstanding + limits.scheduled, size=2 * limits.scheduled_bytes)
        self.scheduled = TenantQuota(rows=limits.scheduled, size=limits.scheduled_bytes)
        self._limits = limits
        self._full: set[str] = set()  # accounts at their bound of calls: their lanes are skipped
        self._free = 0  # calls that this decision may still ask for
        self._running: Counter[str] = Counter()  # calls of the worker by share, including those of this decision

    @classmethod
    def opened(
        cls, rows: Table[Outstanding], limits: SendLimits, in_flight: Collection[str], windows: KnownWindows
    ) -> "State":
        """The state of a partition from its committed rows. `in_flight` are delivery ids with a call of this worker in flight."""
        state = cls(rows, limits, windows)
        # a delivery with an attempt stays at the head of its lane
        for _, row in sorted(rows.items(), key=lambda item: (not item[1].attempt, item[1].delivery.seq)):
            state._derive(row, None)
            if row.phase is Phase.CALLING and row.delivery.delivery_id not in in_flight:  # else the call continues
                state.interrupted.append(row.delivery.delivery_id)
        return state

    def has_room(self) -> bool:
        """Whether another delivery of any tenant may be taken."""
        return not self.held.is_full() and not self.held.is_any_share_full()

    def may_schedule(self, tenant: str) -> bool:
        return not self.scheduled.is_full() and not self.scheduled.is_share_full(tenant)

    def next_due(self) -> int | None:
        if self.interrupted:
            return 0
        unblocked = self.blocked.next_due() if self.lanes.any_blocked() else None
        dues = (self.timers.next_due(), unblocked, self.windows.next_due())
        return min((due for due in dues if due is not None), default=None)

    # --- rows -------------------------------------------------------------------------------------------------------------

    def take(self, row: Outstanding, now: int) -> None:
        """Adds a new delivery: to its lane, or to the scheduled ones."""
        self.rows.put(row.delivery.delivery_id.encode(), row)
        self._derive(row, now)

    def enter(self, row: Outstanding, now: int) -> None:
        """A scheduled delivery is due: it enters its lane. The row records that, so that a restart finds the same lane."""
        delivery = row.delivery
        self.scheduled.remove(delivery.tenant_id, row.size)
        self.put(dataclasses.replace(row, not_before=0))
        self.lanes.add(delivery, now)

    def put(self, row: Outstanding) -> None:
        """Writes a changed row of a lane, and sets its timer."""
        self.rows.put(row.delivery.delivery_id.encode(), row)
        self.remind(row)

    def end(self, row: Outstanding, now: int) -> None:
        """The delivery ended at `now`: the next one of its lane is the head since then."""
        delivery = row.delivery
        self.rows.delete(delivery.delivery_id.encode())
        self.timers.cancel(delivery.tenant_id, delivery.delivery_id)
        self.held.remove(delivery.tenant_id, row.size)
        if row.is_scheduled:
            self.scheduled.remove(delivery.tenant_id, row.size)
        else:
            self.lanes.remove(delivery, now)

    def remind(self, row: Outstanding) -> None:
        """Sets the timer of a waiting delivery to its next attempt or its expiry, whichever is earlier."""
        delivery = row.delivery
        waits = row.phase is Phase.WAITING
        until = [row.not_before] if row.not_before and row.phase is not Phase.CALLING else []
        if waits and delivery.expires_at is not None:  # evidence for a held delivery may arrive after its expiry
            until.append(delivery.expires_at)
        if until:
            self.timers.set(delivery.tenant_id, delivery.delivery_id, min(until), rank=delivery.seq)
        else:
            self.timers.cancel(delivery.tenant_id, delivery.delivery_id)

    def _derive(self, row: Outstanding, now: int | None) -> None:
        """Adds a row to quotas, lanes and timers; `now` is None for one from before this start."""
        delivery = row.delivery
        self.held.add(delivery.tenant_id, row.size)
        if row.is_scheduled:
            self.scheduled.add(delivery.tenant_id, row.size)
        else:
            self.lanes.add(delivery, now)
            if row.attempt:
                self.lanes.begin(lane_of(delivery))
        self.remind(row)

    # --- calls ------------------------------------------------------------------------------------------------------------

    def wants_calls(self, room: Room) -> bool:
        """Whether the head of a lane could be called within this room."""
        if room.free <= 0:
            return False
        if any(room.running.get(_account(place), 0) < self._limits.account for place in self._full):
            return True
        return self.lanes.any_ready(lambda tenant: self._is_busy(tenant, room.running))

    def admit(self, room: Room) -> None:
        """Sets how many calls this decision may start. Lanes of an account at its bound are skipped, like those of a blocked one."""
        self._free, self._running = room.free, Counter(room.running)
        for place in [place for place in self._full if self._running[_account(place)] < self._limits.account]:
            self._full.discard(place)
            if self.blocked.at(place) is None:
                self.lanes.unblock(place)

    def next_lane(self) -> Lane | None:
        """The next lane to check; None when no further call may start."""
        return self.lanes.next_ready(lambda tenant: self._is_busy(tenant, self._running)) if self._free > 0 else None

    def has_calls_left(self, delivery: Delivery) -> bool:
        """Whether the delivery's account may have another call; if not, its lanes are blocked until it may."""
        place = place_of(delivery)
        if self._running[_account(place)] < self._limits.account:
            return True
        self._full.add(place)
        self.lanes.ready(lane_of(delivery))
        self.lanes.block(place)
        return False

    def begin(self, row: Outstanding, now: int) -> tuple[Outstanding, tuple[str, ...]]:
        """Starts a call at `now`: writes its intent. Returns the intent, and the shares that the call counts in."""
        ready_at = self._ready_at(row, now)
        intent = dataclasses.replace(
            row, phase=Phase.CALLING, attempt=row.attempt + 1, dispatched_at=now, ready_at=ready_at
        )
        self.put(intent)
        self.lanes.begin(lane_of(row.delivery))
        shares = (_account(place_of(row.delivery)), _tenant(row.delivery.tenant_id))
        self._free -= 1
        self._running.update(shares)
        return intent, shares

    def seen_ready(self, row: Outstanding, now: int) -> Outstanding:
        """The row with the time at which it became the head of its lane, for what ends without an attempt."""
        return dataclasses.replace(row, ready_at=self._ready_at(row, now))

    def _ready_at(self, row: Outstanding, now: int) -> int | None:
        """When the row became the head of its lane: at `now` at the latest, also where the clock went back. The first attempt fixes it.
        None for a row that is not the head."""
        since = row.ready_at if row.attempt else self.lanes.since(row.delivery)
        return None if since is None else min(since, now)

    def free_at(self, delivery: Delivery, at: int) -> int:
        """The time `at`, or the later one at which the delivery's account takes calls again."""
        return max(at, self.blocked.at(place_of(delivery)) or 0)

    def block(self, delivery: Delivery, until: int) -> None:
        """Blocks the delivery's account until the time `until`."""
        place = place_of(delivery)
        self.blocked.set(place, max(until, self.blocked.at(place) or 0))
        self.lanes.block(place)

    def take_due(self, now: int, at_most: int, most_bytes: int) -> Iterator[str]:
        """Ids of due deliveries: at most `at_most`, and no further ones once their rows have `most_bytes`."""
        number = size = 0
        while (
            number < at_most
            and size < most_bytes
            and (taken := self.timers.take_due(now, min(DUE_AT_ONCE, at_most - number)))
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
    """Exponential back-off with jitter, in milliseconds. The jitter is derived from the ids, so that `decide` stays deterministic."""
    longest = min(LONGEST_BACKOFF_MS, FIRST_BACKOFF_MS << min(times, 10))
    spread = hashlib.blake2b(f"{row.delivery.delivery_id}{row.attempt}".encode(), digest_size=2).digest()
    return longest // 2 + longest * int.from_bytes(spread, "big") // 131_072
