"""Timers: one due time per key, the earliest first. TenantTimers does the same for each tenant, so that no tenant waits behind another.

Derived from rows, never stored: set again after a restore. Times are Unix milliseconds. In memory only: nothing blocks or raises.
"""

import heapq

_SLACK = 64  # stale heap entries that are not worth a clean-up


class Timers:
    """A heap with lazy deletion. Among keys due at the same time, the lowest rank comes first."""

    def __init__(self) -> None:
        self._due: dict[str, int] = {}
        self._heap: list[tuple[int, int, str]] = []

    def __len__(self) -> int:
        return len(self._due)

    def set(self, key: str, due: int, rank: int = 0) -> None:
        """Sets when the key is due, in place of the time it had. The rank counts only when the time changes."""
        if self._due.get(key) == due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, rank, key))
        self._clean_up()

    def cancel(self, key: str) -> None:
        """Removes the key; does nothing if it is not set."""
        if self._due.pop(key, None) is not None:
            self._clean_up()

    def at(self, key: str) -> int | None:
        """When the key is due; None if it is not set."""
        return self._due.get(key)

    def next_due(self) -> int | None:
        """The earliest due time; None if no key is set."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def take_due(self, now: int, at_most: int | None = None) -> list[str]:
        """Removes and returns the keys due at `now` or earlier, the earliest first; at most `at_most`."""
        keys: list[str] = []
        while len(keys) != at_most and (due := self.next_due()) is not None and due <= now:
            key = heapq.heappop(self._heap)[2]
            del self._due[key]
            keys.append(key)
        return keys

    def _drop_stale(self) -> None:
        while self._heap and self._is_stale(self._heap[0]):
            heapq.heappop(self._heap)

    def _clean_up(self) -> None:
        """Removes stale entries when they are the majority. Otherwise a key cancelled long before its time would stay in memory until
        then."""
        if len(self._heap) > 2 * len(self._due) + _SLACK:
            self._heap = [entry for entry in self._heap if not self._is_stale(entry)]
            heapq.heapify(self._heap)

    def _is_stale(self, entry: tuple[int, int, str]) -> bool:
        return self._due.get(entry[2]) != entry[0]


class TenantTimers:
    """Timers for each tenant. Due keys are taken from all tenants in equal parts."""

    def __init__(self) -> None:
        self._timers: dict[str, Timers] = {}
        self._tenants = Timers()  # tenant -> when its next key is due

    def set(self, tenant: str, key: str, due: int, rank: int = 0) -> None:
        """Like Timers.set, for a key of the tenant."""
        self._timers.setdefault(tenant, Timers()).set(key, due, rank)
        self._update(tenant)

    def cancel(self, tenant: str, key: str) -> None:
        """Like Timers.cancel, for a key of the tenant."""
        if tenant in self._timers:
            self._timers[tenant].cancel(key)
            self._update(tenant)

    def next_due(self) -> int | None:
        """The earliest due time of all tenants; None if no key is set."""
        return self._tenants.next_due()

    def take_due(self, now: int, at_most: int) -> list[str]:
        """Removes and returns keys due at `now` or earlier, for each tenant the earliest first. At most `at_most`, and fewer if some
        tenants do not use their equal part; the rest stays due."""
        tenants = self._tenants.take_due(now, at_most)
        keys: list[str] = []
        for tenant in tenants:
            keys += self._timers[tenant].take_due(now, at_most // len(tenants))
            self._update(tenant)
        return keys

    def _update(self, tenant: str) -> None:
        due = self._timers[tenant].next_due()
        if due is None:
            del self._timers[tenant]
            self._tenants.cancel(tenant)
        else:
            self._tenants.set(tenant, due)
