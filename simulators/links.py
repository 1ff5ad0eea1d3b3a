"""A file behind a link, as the provider's servers would fetch it.

What enters: a URL. What leaves: its type and size, or why it could not be fetched. Guaranteed: only links to this machine are really
fetched, and no more of them than the limit; of every other link the name decides: a host under .invalid fails, the ending tells the
type. Nothing is kept.
"""

import mimetypes
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

TIMEOUT_SECONDS = 5.0
_HERE = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class Linked:
    """`failure` empty when it was fetched; `size` 0 when it is not known."""

    mime_type: str = ""
    size: int = 0
    failure: str = ""


def is_url(value: object) -> bool:
    """Whether a provider would take it for a link at all."""
    if not isinstance(value, str) or len(value) > 2048 or " " in value:
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        return False


def is_here(url: str) -> bool:
    """Whether only fetching can tell what is there."""
    return urlsplit(url).hostname in _HERE


def guessed(url: str) -> Linked:
    """What the link alone tells."""
    parts = urlsplit(url)
    if (parts.hostname or "").endswith(".invalid"):
        return Linked(failure="could not resolve host")
    return Linked(mimetypes.guess_type(parts.path)[0] or "")


async def fetched(url: str, limit: int) -> Linked:
    """What is behind it; reads at most `limit` + 1 bytes."""
    if not is_here(url):
        return guessed(url)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            if response.status != 200:
                return Linked(failure=f"{response.status} {response.reason}")
            size = 0
            async for chunk in response.content.iter_any():
                size += len(chunk)
                if size > limit:
                    break
            return Linked(response.content_type, size)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Linked(failure=type(error).__name__)
