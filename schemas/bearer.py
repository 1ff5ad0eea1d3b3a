"""Bearer tokens for Kafka's OAUTHBEARER, printed by a command of the deployment.

Enters: a command line. Leaves: the token that the command prints, alone or as `access_token` of a JSON object, and when it expires: by
`expires_in`, else by the token's own `exp`, else after five minutes. Guaranteed: the command gets none of our settings in its environment,
and no error repeats what it printed.
"""

import base64
import binascii
import json
import subprocess
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from schemas.environment import foreign

SECONDS = 30.0  # time-out of the command
UNSAID_SECONDS = 300.0  # lifetime of a token that names none


class NoToken(Exception):
    """The command printed no token. The text is one sentence, without what it printed."""


class BearerToken(NamedTuple):
    """A token. `expires_at` is in Unix seconds, as librdkafka needs it; `subject` is the token's `sub`, or empty."""

    text: str
    expires_at: float
    subject: str

    def __repr__(self) -> str:
        return f"Token(expires_at={self.expires_at})"


def token(command: Sequence[str]) -> BearerToken:
    """Runs the command and reads its token. Blocks, for at most 30 s; raises NoToken."""
    try:
        done = subprocess.run(  # noqa: S603  # the deployment's own command
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env=foreign(),
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeError) as error:
        raise NoToken(f"CHAT4ALL_KAFKA_TOKEN_COMMAND could not be run: {type(error).__name__}") from None
    if done.returncode:
        raise NoToken(f"CHAT4ALL_KAFKA_TOKEN_COMMAND ended with {done.returncode}")
    return read(done.stdout, time.time())


def read(printed: str, now: float) -> BearerToken:
    """The token in what a command printed; `now` is in Unix seconds. Raises NoToken."""
    text, lifetime = printed.strip(), None
    if text.startswith("{"):
        answer = _object(text)
        text, lifetime = str(answer.get("access_token", "")), answer.get("expires_in")
    if not text or any(letter.isspace() for letter in text):
        raise NoToken(
            "CHAT4ALL_KAFKA_TOKEN_COMMAND printed no token: it has to print the token alone, or JSON with access_token"
        )
    claims = _claims(text)
    expiry = now + lifetime if isinstance(lifetime, int | float) else claims.get("exp")
    expires_at = float(expiry) if isinstance(expiry, int | float) else now + UNSAID_SECONDS
    return BearerToken(text, expires_at, str(claims.get("sub", "")))


def _claims(text: str) -> dict[str, Any]:
    """The claims of a JWT; none for any other token."""
    parts = text.split(".")
    if len(parts) != 3:
        return {}
    try:
        return _object(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return {}


def _object(text: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
