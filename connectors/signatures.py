"""Proofs that a webhook request comes from the provider: pure checks in constant time, on the raw bytes as they were signed.

What enters: the raw body, the header and our secrets. What leaves: true or false. Guaranteed: an empty secret is never a proof.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence

_META_PREFIX = "sha256="
_META_FORM = re.compile(r"sha256=[0-9a-f]{64}").fullmatch


def is_signed_by_meta(body: bytes, header: str | None, secrets: Sequence[str]) -> bool:
    """Checks X-Hub-Signature-256 against each secret (two are valid while one is being replaced).

    https://developers.facebook.com/docs/graph-api/webhooks/getting-started#validate-payloads
    Meta signs the escaped body that it sends, so pass the raw body, never JSON that was parsed and serialised again.
    """
    given = header or ""
    matches = False
    for secret in secrets:
        if secret:
            expected = _META_PREFIX + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
            matches |= is_same(given, expected)  # no early exit: the duration must not show which secret matched
    return matches


def may_be_of_meta(header: str | None) -> bool:
    """Whether the header has the form of a signature, which can be checked before the body is read."""
    return _META_FORM(header or "") is not None


def is_from_telegram(header: str | None, secret: str) -> bool:
    """Checks X-Telegram-Bot-Api-Secret-Token against the secret_token that we passed to setWebhook.

    https://core.telegram.org/bots/api#setwebhook
    """
    return is_same(header or "", secret) and bool(secret)


def is_same(given: str, expected: str) -> bool:
    """Whether two texts are equal. The duration depends on their lengths only."""
    # Bytes, because compare_digest refuses a str outside ASCII, and a header may contain anything.
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode("utf-8", "surrogateescape"))
