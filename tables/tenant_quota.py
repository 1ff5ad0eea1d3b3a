"""How many rows and bytes there are, in all and of each tenant, against a bound and each tenant's share of it, which is half.

Derived from rows, never stored.
"""

from collections import Counter


class TenantQuota:
    """Bounds are what one partition may hold. Whoever adds asks first; a turn may go over by what it brought."""

    def __init__(self, *, rows: int, size: int) -> None:
        self._most_rows, self._most_bytes = rows, size
        self._rows: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._all_rows = self._all_bytes = 0
        self._full: set[str] = set()  # tenants with no share left

    def __len__(self) -> int:
        return self._all_rows

    def rows(self, tenant: str) -> int:
        return self._rows[tenant]

    def add(self, tenant: str, size: int) -> None:
        self._count(tenant, 1, size)

    def remove(self, tenant: str, size: int) -> None:
        self._count(tenant, -1, -size)

    def is_full(self) -> bool:
        """Whether the bound is reached."""
        return self._all_rows >= self._most_rows or self._all_bytes >= self._most_bytes

    def is_share_full(self, tenant: str) -> bool:
        """Whether the tenant's share is reached."""
        return 2 * self._rows[tenant] >= self._most_rows or 2 * self._bytes[tenant] >= self._most_bytes

    def is_any_share_full(self) -> bool:
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
