"""For how long the databases keep what is about messages: CHAT4ALL_RETENTION_DAYS and CHAT4ALL_TENANT_RETENTION.

In: the settings. Out: whether a row is kept, and from when on. Guaranteed: what one decision keeps, no other deletes. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from schemas.keys import is_tenant

DAY_MS = 86_400_000
LONGEST_DAYS = 36_500
# A time before this is no time at which a message was accepted: its row is kept by when it was written.
FIRST_PLAUSIBLE_MS = 946_684_800_000  # 2000-01-01


@dataclass(frozen=True, slots=True)
class Retention:
    """`days` for every tenant that `tenants` does not name; None keeps everything. False in a condition: nothing is ever deleted."""

    days: int | None = None
    tenants: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def __bool__(self) -> bool:
        return self.days is not None or bool(self.tenants)

    def days_of(self, tenant: str) -> int | None:
        return self.tenants.get(tenant, self.days)

    @property
    def longest(self) -> int | None:
        """Days after which nobody's rows are kept; None if somebody's are kept for ever."""
        return None if self.days is None else max((self.days, *self.tenants.values()))

    def keeps(self, tenant: str, accepted_at: int, now: float) -> bool:
        """Whether a row of a message accepted then (Unix milliseconds) may be stored. `now` is Unix time in seconds."""
        days = self.days_of(tenant)
        return days is None or accepted_at >= now * 1000 - days * DAY_MS or accepted_at < FIRST_PLAUSIBLE_MS


KEEP_ALL = Retention()


def retention_in(days: int, tenants: str) -> Retention:
    """What the two settings say together; 0 days are for ever. Raises ValueError as `tenant_days`."""
    return Retention(days or None, tenant_days(tenants))


def tenant_days(text: str) -> Mapping[str, int]:
    """Tenant -> days. Raises ValueError, with a sentence about the first wrong entry."""
    found: dict[str, int] = {}
    for entry in filter(None, (each.strip() for each in text.split(","))):
        tenant, equals, days = (each.strip() for each in entry.partition("="))
        if not equals or not days.isascii() or not days.isdecimal():
            raise ValueError(f"{entry[:60]!r}: write tenant=days, several separated by commas")
        if not is_tenant(tenant):
            raise ValueError(f"{entry[:60]!r}: {tenant[:40]!r} is not a valid tenant name")
        if len(days) > 5 or not 1 <= int(days) <= LONGEST_DAYS:
            raise ValueError(f"{entry[:60]!r}: 1 to {LONGEST_DAYS} days")
        if tenant in found:
            raise ValueError(f"{tenant} is named twice")
        found[tenant] = int(days)
    return MappingProxyType(found)
