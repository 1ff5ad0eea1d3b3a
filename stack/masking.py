"""No secret on a screen or in a log: what it shows in place of one.

Enters: a text. Leaves: the same with `***` for the passwords of its URLs and for the secrets that were named. What is no URL and was
not named is not found.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

MASK = "***"
SHORTEST = 8  # of a secret that is looked for by its value: "app" may be any word
_PASSWORD = re.compile(r"(?P<head>\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)(?P<password>[^\s/@]+)(?=@)", re.IGNORECASE)
_SECRET_NAME = re.compile(r"(password|secret|token|key)s?$")
_WORD = re.compile(r"[^\s,;:\"'{}\[\]]+")


def masked(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without the passwords of URLs in it, and without these secrets."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _PASSWORD.sub(rf"\g<head>{MASK}", text)


def is_secret(setting: str) -> bool:
    """Whether the setting of this name is one."""
    return bool(_SECRET_NAME.search(setting))


def secrets_of(settings: Mapping[str, Any]) -> set[str]:
    """What must not be shown of these settings; one that lists several, or has them in an object, counts for each."""
    values = [str(value) for name, value in settings.items() if is_secret(name)]
    values += [found["password"] for value in settings.values() for found in _PASSWORD.finditer(str(value))]
    return {word for value in values for word in (value, *_WORD.findall(value)) if len(word) >= SHORTEST}
