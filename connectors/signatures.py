"""Whether a webhook request comes from the provider: pure checks in constant time, on the raw bytes as they were signed.

What enters: the raw body, the header and our secrets. What leaves: yes or no. An empty secret proves nothing, so it is always no.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence

_META_PREFIX = "sha256="
_META_FORM = re.compile(r"sha256=[0-9a-f]{64}").fullmatch


def is_signed_by_meta(body: bytes, header: str | None, secrets: Sequence[str]) -> bool:
    """X-Hub-Signature-256 against each secret (two are valid while one is being replaced).

    https://developers.facebook.com/docs/graph-api/webhooks/getting-started#validate-payloads
    Meta signs the escaped body it sends, so parsed and re-serialised JSON must never be verified.
    """
    given = header or ""
    matches = False
    for secret in secrets:
        if secret:
            expected = _META_PREFIX + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
            matches |= is_same(given, expected)  # no early exit: the time must not tell which secret matched
    return matches


def may_be_of_meta(header: str | None) -> bool:
    """Whether the header has the form of a signature: what can be said before there is a body."""
    return _META_FORM(header or "") is not None


def is_from_telegram(header: str | None, secret: str) -> bool:
    """X-Telegram-Bot-Api-Secret-Token against the secret_token we gave to setWebhook.

    https://core.telegram.org/bots/api#setwebhook
    """
    return is_same(header or "", secret) and bool(secret)


def is_same(given: str, expected: str) -> bool:
    """Whether two texts are equal, in a time that depends on their lengths only."""
    # Bytes, because compare_digest refuses str outside ASCII and a header may hold anything.
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode("utf-8", "surrogateescape"))
