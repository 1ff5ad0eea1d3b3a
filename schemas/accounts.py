"""Whose account is whose: which of our accounts a tenant may send with, and whose message an account receives.

Enters: the setting CHAT4ALL_ACCOUNTS. Leaves: a tenant, or an account. Guaranteed: an account that is listed serves its tenant and
nobody else; one that is not listed serves everybody if it is its channel's configured one, else nobody.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.keys import DEFAULT_TENANT, is_tenant
from schemas.records import CHANNELS

_ACCOUNT = re.compile(
    r"[!-~]{1,128}"
)  # visible ASCII; a colon, comma, equals sign or slash could not be told from the setting's own
_OURS = frozenset(":,=/")


@dataclass(frozen=True, slots=True)
class Accounts:
    """`listed` is (channel, account) -> tenant, in the order of the setting."""

    listed: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def tenant_of(self, channel: str, account: str) -> str:
        """Whose is what comes in on an account."""
        return self.listed.get((channel, account), DEFAULT_TENANT)

    def may_use(self, tenant_id: str, channel: str, account: str, shared: str) -> bool:
        """Whether a tenant may send with an account; `shared` is the channel's configured one."""
        owner = self.listed.get((channel, account))
        return account == shared if owner is None else owner == tenant_id

    def account_for(self, tenant_id: str, channel: str, shared: str) -> str | None:
        """What a tenant sends with when nothing else is asked for: the first of its own, else the shared one, else None."""
        own = (account for (on, account), owner in self.listed.items() if (on, owner) == (channel, tenant_id))
        found = next(own, shared)
        return found if self.may_use(tenant_id, channel, found, shared) else None


NONE_LISTED = Accounts()


def accounts_in(text: str) -> Accounts:
    """The accounts of `channel:account=tenant[,...]`; raises ValueError with a sentence about the first entry that is wrong."""
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
