"""Which tenant owns an account: which of our accounts a tenant may send with, and which tenant an inbound message belongs to.

Enters: the setting CHAT4ALL_ACCOUNTS. Leaves: a tenant, or an account. Guaranteed: a listed account serves its tenant only. An account that
is not listed serves all tenants if it is the configured account of its channel, and no tenant otherwise.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.keys import DEFAULT_TENANT, is_tenant
from schemas.records import CHANNELS

_ACCOUNT = re.compile(r"[!-~]{1,128}")  # visible ASCII
_OURS = frozenset(":,=/")  # not allowed in an account, because the setting and the keys use them as separators


@dataclass(frozen=True, slots=True)
class Accounts:
    """The owners of accounts. `listed` maps (channel, account) to the tenant, in the order of the setting. Immutable; nothing blocks."""

    listed: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def tenant_of(self, channel: str, account: str) -> str:
        """The tenant of everything that arrives on an account; `default` if the account is not listed."""
        return self.listed.get((channel, account), DEFAULT_TENANT)

    def may_use(self, tenant_id: str, channel: str, account: str, shared: str) -> bool:
        """Whether a tenant may send with an account. `shared` is the configured account of the channel."""
        owner = self.listed.get((channel, account))
        return account == shared if owner is None else owner == tenant_id

    def account_for(self, tenant_id: str, channel: str, shared: str) -> str | None:
        """The account a tenant sends with by default: the first of its own, else the shared one if it may use it, else None."""
        own = (account for (on, account), owner in self.listed.items() if (on, owner) == (channel, tenant_id))
        found = next(own, shared)
        return found if self.may_use(tenant_id, channel, found, shared) else None


NONE_LISTED = Accounts()


def accounts_in(text: str) -> Accounts:
    """Reads `channel:account=tenant[,...]`. Raises ValueError, with a sentence about the first wrong entry."""
    listed: dict[tuple[str, str], str] = {}
    for entry in filter(None, (each.strip() for each in text.split(","))):
        name, equals, tenant = (each.strip() for each in entry.partition("="))
        channel, colon, account = (each.strip() for each in name.partition(":"))
        if not (equals and colon):
            raise ValueError(f"{entry[:60]!r}: write channel:account=tenant, several separated by commas")
        if channel not in CHANNELS:
            raise ValueError(f"{entry[:60]!r}: no channel {channel[:40]!r}, there are {', '.join(CHANNELS)}")
        if not _ACCOUNT.fullmatch(account) or _OURS & set(account):
            raise ValueError(
                f"{entry[:60]!r}: an account has 1 to 128 visible ASCII characters, none of {' '.join(sorted(_OURS))}"
            )
        if not is_tenant(tenant):
            raise ValueError(f"{entry[:60]!r}: a tenant has 1 to 64 of letters, digits, point, dash, underscore")
        if (channel, account) in listed:
            raise ValueError(f"{channel}:{account} is listed twice: an account belongs to one tenant")
        listed[channel, account] = tenant
    return Accounts(listed)
