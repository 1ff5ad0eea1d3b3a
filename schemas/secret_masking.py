"""Secrets within texts: the mask that is shown instead of one, and texts with a secret that libraries have to read as plain `str`.

A secret that only our own code reads is pydantic's SecretStr. A URL with a password, and a value in the configuration of a client library,
have to be `str`: MaskedText and MaskedUrl are, and every repr of them is masked, and so are dumps and logs. Guaranteed: `masked` changes
nothing but passwords of URLs, before their host or in their query. schemas/redaction.py masks secrets by their value.
"""

import re
from typing import Annotated

from pydantic import AfterValidator

MASK = "***"
# A password ends at the last @ before the path.
OF_A_URL = r"(?<=://)(?P<user>[^\s/:@'\"?#]*):[^\s/'\"?#]+@|(?<=[?&])(?P<parameter>(?:ssl)?password)=[^\s&#'\"]+"
_PASSWORDS = re.compile(OF_A_URL)


def masked(text: str) -> str:
    """The text with the passwords of its URLs masked."""
    return _PASSWORDS.sub(in_place_of, text)


def in_place_of(found: "re.Match[str]") -> str:
    """The replacement for a match of OF_A_URL, or of a pattern that has OF_A_URL as an alternative."""
    if found["user"] is not None:
        return f"{found['user']}:{MASK}@"
    return MASK if found["parameter"] is None else f"{found['parameter']}={MASK}"


class MaskedText(str):
    """A text that is a secret as a whole."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)


class MaskedUrl(str):
    """A URL whose password is a secret."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(masked(str(self)))


SecretUrl = Annotated[str, AfterValidator(MaskedUrl)]
