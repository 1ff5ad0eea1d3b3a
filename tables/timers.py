"""What is due when: one due time per key, the earliest first; and the same by tenant, so that no tenant's keys wait behind another's.

Derived from rows, never stored. Times are Unix milliseconds.
"""

import heapq

_SLACK = 64  # heap entries of keys set anew or cancelled that are not worth a clean-up


class Timers:
    """A heap with lazy deletion; setting a key again moves it. Of keys due at the same time the lowest rank comes first."""

    def __init__(self) -> None:
        self._due: dict[str, int] = {}
        self._heap: list[tuple[int, int, str]] = []

    def __len__(self) -> int:
        return len(self._due)

    def set(self, key: str, due: int, rank: int = 0) -> None:
        if self._due.get(key) == due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, rank, key))
        self._clean_up()

    def cancel(self, key: str) -> None:
        if self._due.pop(key, None) is not None:
            self._clean_up()

    def at(self, key: str) -> int | None:
        """When the key is due."""
        return self._due.get(key)

    def next_due(self) -> int | None:
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def take_due(self, now: int, at_most: int | None = None) -> list[str]:
        """Removes and returns the keys due by now, the earliest first; no more than `at_most`."""
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
        """Without it, a key that is cancelled long before its time would be kept until then."""
        if len(self._heap) > 2 * len(self._due) + _SLACK:
            self._heap = [entry for entry in self._heap if not self._is_stale(entry)]
            heapq.heapify(self._heap)

    def _is_stale(self, entry: tuple[int, int, str]) -> bool:
        return self._due.get(entry[2]) != entry[0]


class TenantTimers:
    """An agenda for each tenant; what is due is taken from all of them in equal parts."""

    def __init__(self) -> None:
        self._of: dict[str, Timers] = {}
        self._tenants = Timers()  # tenant -> when its next key is due

    def set(self, tenant: str, key: str, due: int, rank: int = 0) -> None:
        self._of.setdefault(tenant, Timers()).set(key, due, rank)
        self._note(tenant)

    def cancel(self, tenant: str, key: str) -> None:
        if tenant in self._of:
            self._of[tenant].cancel(key)
            self._note(tenant)

    def next_due(self) -> int | None:
        return self._tenants.next_due()

    def take_due(self, now: int, at_most: int) -> list[str]:
        """Removes and returns keys due by now, of each tenant the earliest first; about `at_most`. What is left stays due."""
        tenants = self._tenants.take_due(now, at_most)
        keys: list[str] = []
        for tenant in tenants:
            keys += self._of[tenant].take_due(now, at_most // len(tenants))
            self._note(tenant)
        return keys

    def _note(self, tenant: str) -> None:
        due = self._of[tenant].next_due()
        if due is None:
            del self._of[tenant]
            self._tenants.cancel(tenant)
        else:
            self._tenants.set(tenant, due)
