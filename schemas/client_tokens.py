"""Tokens of the internal channel: whom each of them may speak for.

In: the setting CHAT4ALL_INTERNAL_TOKENS, `token=tenant:person|person`, several separated by commas. Out: Tokens. Guaranteed: no sentence
about a wrong entry holds anything of it; an entry that names nobody is wrong, it never means everybody.
"""

import re
from dataclasses import dataclass

from schemas.keys import is_tenant
from schemas.limits import ADDRESS

ALL = "*"
FORM = "write token=tenant:person|person, with * for every tenant or every person, several separated by commas"
_TOKEN = re.compile(r"[!-+\--~]{8,512}").fullmatch  # visible ASCII but a comma


@dataclass(frozen=True, slots=True, repr=False)
class ClientToken:
    """`tenant` is None for a service that stands before the clients of all tenants, `people` for one that speaks for everybody."""

    token: str
    tenant: str | None = None
    people: frozenset[str] | None = None

    def speaks_for(self, tenant: str, person: str) -> bool:
        return self.tenant in (None, tenant) and (self.people is None or person in self.people)


def tokens_in(text: str) -> tuple[ClientToken, ...]:
    """The tokens of the setting; raises ValueError with a sentence about the first entry that is wrong."""
    entries = [entry for entry in (each.strip() for each in text.split(",")) if entry]
    found = tuple(_token(entry, number) for number, entry in enumerate(entries, 1))
    if len({each.token for each in found}) < len(found):
        raise ValueError("a token is listed twice: it speaks for one tenant, and for all its people in one entry")
    return found


def _token(entry: str, number: int) -> ClientToken:
    token, equals, whom = entry.rpartition("=")  # a token may end with = itself, as base64 does
    tenant, colon, people = (each.strip() for each in whom.partition(":"))
    if not (equals and colon):
        raise ValueError(f"entry {number}: {FORM}")
    if not _TOKEN(token.strip()):
        raise ValueError(f"entry {number}: a token has 8 to 512 visible ASCII characters")
    if tenant != ALL and not is_tenant(tenant):
        raise ValueError(f"entry {number}: a tenant has 1 to 64 of letters, digits, point, dash, underscore, or is *")
    names = frozenset(each.strip() for each in people.split("|"))
    if ALL not in names and not all(name and len(name.encode()) <= ADDRESS.most for name in names):
        raise ValueError(f"entry {number}: name one person or more, each of 1 to {ADDRESS.most} bytes, or * for all")
    return ClientToken(token.strip(), None if tenant == ALL else tenant, None if ALL in names else names)
