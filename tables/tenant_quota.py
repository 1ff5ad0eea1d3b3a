"""Counts rows and bytes, in total and for each tenant, and compares them with a limit. A tenant's share is half of the limit.

Derived from the rows of a table, never stored: built again after a restore.
"""

from collections import Counter


class TenantQuota:
    """`rows` and `size` (bytes) are the limits of one partition. `add` does not check them: callers ask `is_full` and `is_share_full`
    first, and a turn may go over the limits by what it takes. Nothing blocks or raises."""

    def __init__(self, *, rows: int, size: int) -> None:
        self._most_rows, self._most_bytes = rows, size
        self._rows: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._all_rows = self._all_bytes = 0
        self._full: set[str] = set()  # tenants that have used up their share

    def __len__(self) -> int:
        return self._all_rows

    def rows(self, tenant: str) -> int:
        return self._rows[tenant]

    def add(self, tenant: str, size: int) -> None:
        self._count(tenant, 1, size)

    def remove(self, tenant: str, size: int) -> None:
        self._count(tenant, -1, -size)

    def is_full(self) -> bool:
        """Whether all tenants together have reached one of the limits."""
        return self._all_rows >= self._most_rows or self._all_bytes >= self._most_bytes

    def is_share_full(self, tenant: str) -> bool:
        """Whether the tenant has reached half of one of the limits."""
        return 2 * self._rows[tenant] >= self._most_rows or 2 * self._bytes[tenant] >= self._most_bytes

    def is_any_share_full(self) -> bool:
        """Whether any tenant has used up its share. The time it takes does not depend on the number of tenants."""
        return bool(self._full)

    def _count(self, tenant: str, rows: int, size: int) -> None:
        self._all_rows += rows
        self._all_bytes += size
        self._rows[tenant] += rows
        self._bytes[tenant] += size
        if not self._rows[tenant]:
            del self._rows[tenant], self._bytes[tenant]
            self._full.discard(tenant)
        elif self.is_share_full(tenant):
            self._full.add(tenant)
        else:
            self._full.discard(tenant)
