"""Secrets within texts: what is shown in place of one, and texts that hold one and must pass through libraries as plain `str`.

Where nothing but our own code reads a secret it is pydantic's SecretStr. A URL with a password, and a value in the settings of a client
library, are given away as they are: MaskedText and MaskedUrl are `str` to everybody, and masked in every repr, and so in dumps and logs.
Guaranteed: `masked` changes nothing but passwords of URLs, before their host or in their query. For secrets by value: schemas/redaction.py.
"""

import re
from typing import Annotated

from pydantic import AfterValidator

MASK = "***"
# A password ends at the last @ before the path.
OF_A_URL = r"(?<=://)(?P<user>[^\s/:@'\"?#]*):[^\s/'\"?#]+@|(?<=[?&])(?P<parameter>(?:ssl)?password)=[^\s&#'\"]+"
_PASSWORDS = re.compile(OF_A_URL)


def masked(text: str) -> str:
    """The text without the passwords of URLs in it."""
    return _PASSWORDS.sub(in_place_of, text)


def in_place_of(found: "re.Match[str]") -> str:
    """What stands in place of a match of OF_A_URL, or of a pattern that has it as an alternative."""
    if found["user"] is not None:
        return f"{found['user']}:{MASK}@"
    return MASK if found["parameter"] is None else f"{found['parameter']}={MASK}"


class MaskedText(str):
    """All of it is the secret."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)


class MaskedUrl(str):
    """A URL whose password is the secret."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(masked(str(self)))


SecretUrl = Annotated[str, AfterValidator(MaskedUrl)]
