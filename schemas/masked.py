"""Texts that hold a secret and must pass through libraries as plain `str`: a repr, and so a traceback, a log or a dump shows none of it.

Where nothing but our own code reads a secret it is pydantic's SecretStr. A URL with a password, and a value in the settings of a client
library, are given away as they are: these two are `str` to everybody, and masked in every repr.
"""

import re
from typing import Annotated

from pydantic import AfterValidator

MASK = "**********"
_PASSWORD = re.compile(r"(?P<head>^[a-z][a-z0-9+.-]*://[^/?#@]*?:)(?P<password>[^/?#]*)(?=@)", re.IGNORECASE)


class MaskedText(str):
    """All of it is the secret."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)


class MaskedUrl(str):
    """A URL whose password is the secret."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(masked(self))


def masked(url: str) -> str:
    """The URL with its password masked, for people."""
    return _PASSWORD.sub(rf"\g<head>{MASK}", url)


SecretUrl = Annotated[str, AfterValidator(MaskedUrl)]
