"""Tokens of the internal channel: for which tenant and which people each of them may act.

Enters: the setting CHAT4ALL_INTERNAL_TOKENS, `token=tenant:person|person`, several separated by commas. Leaves: ClientTokens. Guaranteed:
no error about a wrong entry contains a part of it. An entry without a person is an error; it never means every person.
"""

import re
from dataclasses import dataclass

from schemas.keys import is_tenant
from schemas.limits import ADDRESS

ALL = "*"
FORM = "write token=tenant:person|person, with * for every tenant or every person, several separated by commas"
_TOKEN = re.compile(r"[!-+\--~]{8,512}").fullmatch  # visible ASCII without a comma


@dataclass(frozen=True, slots=True, repr=False)
class ClientToken:
    """A token and what it allows. `tenant` is None for a service that acts for all tenants; `people` is None for one that acts for every
    person."""

    token: str
    tenant: str | None = None
    people: frozenset[str] | None = None

    def speaks_for(self, tenant: str, person: str) -> bool:
        """Whether the token may act for this person of this tenant."""
        return self.tenant in (None, tenant) and (self.people is None or person in self.people)


def tokens_in(text: str) -> tuple[ClientToken, ...]:
    """The tokens in a value of the setting. Raises ValueError, with a sentence about the first wrong entry."""
    entries = [entry for entry in (each.strip() for each in text.split(",")) if entry]
    found = tuple(_token(entry, number) for number, entry in enumerate(entries, 1))
    if len({each.token for each in found}) < len(found):
        raise ValueError("a token is listed twice: name all its people in one entry, of one tenant")
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
