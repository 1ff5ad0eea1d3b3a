"""The second line of defence of every log: whatever is configured as secret is masked wherever it stands in a line.

Enters: settings, as an object or by name. Leaves: a function of a line. Guaranteed: no secret of at least SHORTEST characters passes it,
plain, percent-quoted or as JSON writes it, and no password of any URL; one regular expression, some microseconds a line.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from schemas.secret_masking import OF_A_URL, in_place_of

SHORTEST = 10  # a shorter one may be a word that lines need
_SECRET_NAME = re.compile(r"(password|secret|token|key)s?$")
Given = Mapping[str, Any] | Iterable[tuple[str, Any]]


def redactor(given: Given) -> Callable[[str], str]:
    """Masks what these settings hold as secret."""
    forms = {form for secret in secrets_of(given) for form in _written(secret)}
    # the longest first, so that one which holds another is masked whole
    known = [re.escape(form) for form in sorted(forms, key=lambda form: (-len(form), form))]
    pattern = re.compile("|".join((OF_A_URL, *known)))
    return lambda line: pattern.sub(in_place_of, line)


def is_secret(setting: str) -> bool:
    """Whether the setting of this name is one, where its type does not say so."""
    return bool(_SECRET_NAME.search(setting))


def secrets_of(given: Given) -> Iterator[str]:
    """Each secret by itself, of those that can be told from ordinary words."""
    for name, value in dict(given).items():
        if isinstance(value, SecretStr):
            found = _parts(name, value.get_secret_value())
        elif isinstance(value, str) and is_secret(name):
            found = _parts(name, value)
        else:
            found = _passwords(value)
        yield from (secret for secret in found if len(secret) >= SHORTEST)


def _parts(name: str, value: str) -> Iterator[str]:
    """A setting may hold several with commas between; Telegram's has an id before its secret, a client's whom it speaks for behind."""
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
