"""The second line of defence of every log: whatever is configured as secret is masked wherever it stands in a line.

Enters: the settings. Leaves: a function of a line. Guaranteed: no secret of at least SHORTEST characters passes it, plain, percent-quoted
or as JSON writes it, and no password of any URL; one regular expression, some microseconds a line.
"""

import json
import re
from collections.abc import Callable, Iterator
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from schemas.passwords import MASK, OF_A_URL
from schemas.settings import Settings

SHORTEST = 10  # a shorter one may be a word that lines need


def redactor(settings: Settings) -> Callable[[str], str]:
    """Masks what these settings hold as secret."""
    forms = {form for secret in secrets_of(settings) for form in _written(secret)}
    # the longest first, so that one which holds another is masked whole
    known = [re.escape(form) for form in sorted(forms, key=lambda form: (-len(form), form))]
    pattern = re.compile("|".join((OF_A_URL, *known)))
    return lambda line: pattern.sub(_masked, line)


def _masked(found: "re.Match[str]") -> str:
    user = found["user"]
    return MASK if user is None else f"{user}:{MASK}@"


def secrets_of(settings: Settings) -> Iterator[str]:
    """Each secret by itself: a setting may hold several, with commas between, and Telegram's token an id before its secret."""
    given = {name: getattr(settings, name) for name in (*type(settings).model_fields, *(settings.model_extra or {}))}
    for value in given.values():
        if isinstance(value, SecretStr):
            listed = [each.strip() for each in value.get_secret_value().split(",")]
            yield from (part for each in listed for part in (each, each.rpartition(":")[2]) if len(part) >= SHORTEST)
        elif isinstance(value, str) and "://" in value:
            password = unquote(urlsplit(value).password or "")
            if len(password) >= SHORTEST:
                yield password


def _written(secret: str) -> set[str]:
    return {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
