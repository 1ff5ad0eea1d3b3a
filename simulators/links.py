"""The file behind a link, as the provider's servers would fetch it.

What enters: a URL. What leaves: its type and size, or why it could not be fetched. Guaranteed: only links to this machine are really
fetched, and at most `limit` + 1 bytes and the rest of a chunk of them. For every other link the name decides: a host under .invalid fails,
the file extension gives the type. Nothing is stored.
"""

import mimetypes
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

TIMEOUT_SECONDS = 5.0
_HERE = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class Linked:
    """The result. `failure` is empty when the file was fetched or guessed; `size` is 0 when it is not known."""

    mime_type: str = ""
    size: int = 0
    failure: str = ""


def is_url(value: object) -> bool:
    """Whether a provider would accept the value as a link."""
    if not isinstance(value, str) or len(value) > 2048 or " " in value:
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        return False


def is_here(url: str) -> bool:
    """Whether the link is to this machine, so that it is really fetched."""
    return urlsplit(url).hostname in _HERE


def guessed(url: str) -> Linked:
    """Type or failure by the link's name alone."""
    parts = urlsplit(url)
    if (parts.hostname or "").endswith(".invalid"):
        return Linked(failure="could not resolve host")
    return Linked(mimetypes.guess_type(parts.path)[0] or "")


async def fetched(url: str, limit: int) -> Linked:
    """The file's type and size. Stops reading when the size is over `limit` bytes. Raises nothing but cancellation."""
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
