"""Masks configured secrets in every log line, as a second protection: no line should contain one in the first place.

Enters: settings, as an object or by name. Leaves: a function from a line to the masked line. Guaranteed: no secret of at least SHORTEST
characters gets through, in plain form, percent-quoted or as JSON writes it, and no password of any URL. It is one regular expression and
takes some microseconds per line.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from schemas.secret_masking import OF_A_URL, in_place_of

SHORTEST = 10  # characters; a shorter secret may be an ordinary word
_SECRET_NAME = re.compile(r"(password|secret|token|key)s?$")
Given = Mapping[str, Any] | Iterable[tuple[str, Any]]


def redactor(given: Given) -> Callable[[str], str]:
    """A function that masks the secrets of these settings in a line. It is pure; any thread may call it."""
    forms = {form for secret in secrets_of(given) for form in _written(secret)}
    # the longest first, so that a secret that contains another one is masked completely
    known = [re.escape(form) for form in sorted(forms, key=lambda form: (-len(form), form))]
    pattern = re.compile("|".join((OF_A_URL, *known)))
    return lambda line: pattern.sub(in_place_of, line)


def is_secret(setting: str) -> bool:
    """Whether a setting is a secret by its name, for settings whose type does not say it."""
    return bool(_SECRET_NAME.search(setting))


def secrets_of(given: Given) -> Iterator[str]:
    """Each single secret of the settings, with at least SHORTEST characters."""
    for name, value in dict(given).items():
        if isinstance(value, SecretStr):
            found = _parts(name, value.get_secret_value())
        elif isinstance(value, str) and is_secret(name):
            found = _parts(name, value)
        else:
            found = _passwords(value)
        yield from (secret for secret in found if len(secret) >= SHORTEST)


def _parts(name: str, value: str) -> Iterator[str]:
    """The secrets in one setting. It may hold several, comma-separated. Telegram's token has an id before the secret, and a client's token
    has the tenant and the people after it."""
    for each in (part.strip() for part in value.split(",")):
        if name == "internal_tokens":
            yield each.rpartition("=")[0].strip()
        else:
            yield from {each, each.rpartition(":")[2]}


def _passwords(value: Any) -> Iterator[str]:
    if isinstance(value, str) and "://" in value:
        yield unquote(urlsplit(value).password or "")


def _written(secret: str) -> set[str]:
    return {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
