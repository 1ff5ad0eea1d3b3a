"""One HTTP call to a provider, and what it means when no answer comes.

What enters: URL, headers, body. What leaves: the Answer, whatever its status; or RetryLater when the request surely did not leave
(DNS, connect, TLS, pool), or Unknown when it may have (read time-out, reset, an answer cut short). Guaranteed: nothing is retried,
no redirect is followed, at most ANSWER_LIMIT bytes are kept; no sentence holds the URL (Telegram's carries the token), a header or
the body. Raises nothing but cancellation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from connectors.shape import decode
from schemas.outcomes import RetryLater, Unknown

ANSWER_LIMIT = 1_000_000
LONGEST_WAIT_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the provider answered. `headers` are case-insensitive."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> object:
        """The decoded body, None when it is not JSON."""
        return decode(self.body)

    def retry_after(self) -> float | None:
        """Seconds of the Retry-After header; a date counts from the answer's own Date header."""
        given = self.headers.get("Retry-After", "").strip()
        if given.isascii() and given.isdecimal():
            return min(float(given), LONGEST_WAIT_SECONDS)
        try:
            wait = parsedate_to_datetime(given) - parsedate_to_datetime(self.headers.get("Date", ""))
        except (ValueError, TypeError):
            return None
        return min(max(wait.total_seconds(), 0.0), LONGEST_WAIT_SECONDS)


class Calls:
    """Pooled connections to one provider, opened at the first call inside the running loop. `post` is reentrant.

    Connecting (waiting for a pooled connection included) may take half of `timeout_seconds`, the whole call all of it: so a
    time-out always says on which side of "the request left" it fell.
    """

    def __init__(self, *, timeout_seconds: float, connections: int) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=timeout_seconds / 2)
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer | RetryLater | Unknown:
        try:
            async with self._pool().post(
                URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
            ) as response:
                kept = bytearray()
                async for chunk in response.content.iter_any():
                    kept += chunk
                    if len(kept) > ANSWER_LIMIT:
                        return Unknown(
                            f"the provider answered HTTP {response.status} with more than {ANSWER_LIMIT} bytes"
                        )
                return Answer(response.status, response.headers, bytes(kept))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return _no_answer(error)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
                # Idle connections close before the providers' own keep-alive ends, so that few requests meet a closed one.
                connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=20, ttl_dns_cache=60),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


# The first class that fits an error says where the call broke. Order matters: the narrower class stands first.
_BROKEN: tuple[tuple[tuple[type[Exception], ...], RetryLater | Unknown], ...] = (
    (
        (aiohttp.ClientConnectorDNSError,),
        RetryLater("not sent: the provider's host name could not be resolved", "dns"),
    ),
    (
        (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch),
        RetryLater("not sent: no TLS connection to the provider, or its certificate is not trusted", "tls"),
    ),
    (
        (aiohttp.ConnectionTimeoutError,),
        RetryLater("not sent: no connection to the provider within the time-out", "connect_timeout"),
    ),
    (
        (aiohttp.ClientConnectorError,),
        RetryLater("not sent: the connection to the provider was refused", "connect"),
    ),
    (
        (aiohttp.InvalidURL, ValueError),
        RetryLater("not sent: the provider's base URL or token is malformed; correct the setting", "url", 60.0),
    ),
    ((TimeoutError,), Unknown("the request left and no answer came within the time-out")),
    ((aiohttp.ClientPayloadError,), Unknown("the request left and the answer was cut short")),
)


def _no_answer(error: Exception) -> RetryLater | Unknown:
    """Where the call broke. Only the error's class is told: its text may hold the URL."""
    for classes, meaning in _BROKEN:
        if isinstance(error, classes):
            return meaning
    return Unknown(f"the connection broke when the request may have left ({type(error).__name__})")
