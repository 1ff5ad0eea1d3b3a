"""One HTTP call to a provider, and what it means when no answer comes.

What enters: URL, headers, body. What leaves: the Answer, whatever its status; or RetryLater when the request surely did not leave
(DNS, connect, TLS, pool), or Unknown when it may have (read time-out, reset, an answer cut short). Guaranteed: nothing is retried,
no redirect is followed, at most ANSWER_LIMIT bytes are kept; no sentence holds the URL (Telegram's carries the token), a header or
the body; each call, also one that was cancelled, leaves an Exchange in the exchange log. Raises nothing but cancellation.
"""

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from connectors.exchange_log import EXCHANGES, Exchange
from connectors.shape import decode
from schemas.outcomes import RetryLater, Unknown

ANSWER_LIMIT = 1_000_000
LONGEST_WAIT_SECONDS = 86_400.0
_LINE_ENDS = frozenset("\r\n\0")


_UNREAD = object()


@dataclass(slots=True)
class Answer:
    """What the provider answered. `headers` are case-insensitive."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    _json: object = field(default=_UNREAD, init=False, repr=False, compare=False)

    def json(self) -> object:
        """The decoded body, None when it is not JSON; decoded once."""
        if self._json is _UNREAD:
            self._json = decode(self.body)
        return self._json

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


@dataclass(frozen=True, slots=True)
class Told:
    """What an answer says for the exchange log: the provider's error code, and its own id of the call."""

    error: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    url: str
    body: bytes | None
    headers: Mapping[str, str]


class Calls:
    """Pooled connections to one provider, opened at the first call inside the running loop. `post` is reentrant.

    Connecting (waiting for a pooled connection included) may take half of `timeout_seconds`, the whole call all of it: so a
    time-out always says on which side of "the request left" it fell. `secrets` are cut out of URLs before the exchange log sees
    them; `told` reads an answer for it. `tls` says whom to trust, by default whom the machine trusts.
    """

    def __init__(
        self,
        *,
        channel: str,
        secrets: Sequence[str],
        told: Callable[[Answer], Told],
        timeout_seconds: float,
        connections: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._channel = channel
        self._secrets = tuple(secret for secret in secrets if secret)
        self._told = told
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=timeout_seconds / 2)
        self._connections = connections
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        self._session: aiohttp.ClientSession | None = None

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, delivery_id: str, attempt: int
    ) -> Answer | RetryLater | Unknown:
        """One call of an attempt."""
        return await self._logged(_Request("POST", url, body, headers), delivery_id, attempt)

    async def get(self, url: str, headers: Mapping[str, str]) -> Answer | RetryLater | Unknown:
        """One harmless call on behalf of no delivery."""
        return await self._logged(_Request("GET", url, None, headers), "", 0)

    async def _logged(self, request: "_Request", delivery_id: str, attempt: int) -> Answer | RetryLater | Unknown:
        started_at, began = time.time_ns() // 1_000_000, time.perf_counter()
        status, told = None, Told("cancelled")
        try:
            came = await self._call(request)
            status = came.status
            if isinstance(came, _Broken):
                told = Told(came.name)
                return came.meaning
            told = self._told(came)
            return came
        finally:
            EXCHANGES.record(
                Exchange(
                    started_at=started_at,
                    duration_ms=round((time.perf_counter() - began) * 1000, 3),
                    channel=self._channel,
                    delivery_id=delivery_id,
                    attempt=attempt,
                    method=request.method,
                    url=self._shown(request.url),
                    status=status,
                    error=told.error,
                    request_id=told.request_id,
                )
            )

    async def _call(self, request: "_Request") -> "Answer | _Broken":
        status, target = None, _target(request)
        if target is None:
            return _MALFORMED
        try:
            async with self._pool().request(
                request.method, target, data=request.body, headers=request.headers, allow_redirects=False
            ) as response:
                status = response.status
                kept = bytearray()
                async for chunk in response.content.iter_any():
                    kept += chunk
                    if len(kept) > ANSWER_LIMIT:
                        told = f"the provider answered HTTP {status} with more than {ANSWER_LIMIT} bytes"
                        return _Broken("too_long", Unknown(told), status)
                return Answer(status, response.headers, bytes(kept))
        except (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError, ValueError) as error:
            return _no_answer(error, status)

    def _shown(self, url: str) -> str:
        shown = url.partition("?")[0]
        for secret in self._secrets:
            shown = shown.replace(secret, "***")
        return shown

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
                # Idle connections close before the providers' own keep-alive ends, so that few requests meet a closed one.
                connector=aiohttp.TCPConnector(
                    limit=self._connections, keepalive_timeout=20, ttl_dns_cache=60, ssl=self._tls
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def _target(request: _Request) -> URL | None:
    """The URL, None when it or a header could not go out: found before the call, so that "surely not sent" is sure."""
    try:
        url = URL(request.url, encoded=True)
        is_good = url.scheme in ("http", "https") and bool(url.host) and bool(url.port)
    except ValueError:
        return None
    return None if not is_good or any(set(value) & _LINE_ENDS for value in request.headers.values()) else url


@dataclass(frozen=True, slots=True)
class _Broken:
    """A call without a whole answer: a name for the exchange log, and what it means. `status` is set when the answer had begun."""

    name: str
    meaning: RetryLater | Unknown
    status: int | None = None


def _not_sent(name: str, sentence: str, after_seconds: float | None = None) -> _Broken:
    return _Broken(name, RetryLater(f"not sent: {sentence}", name, after_seconds))


_MALFORMED = _not_sent("url", "the provider's base URL or the token is malformed; correct the setting", 60.0)
# The first class that fits an error says where the call broke. Order matters: the narrower class stands first.
_BROKEN: tuple[tuple[tuple[type[Exception], ...], _Broken], ...] = (
    ((aiohttp.ClientConnectorDNSError,), _not_sent("dns", "the provider's host name could not be resolved")),
    (
        (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch),
        _not_sent("tls", "no TLS connection to the provider, or its certificate is not trusted"),
    ),
    (
        (aiohttp.ConnectionTimeoutError,),
        _not_sent("connect_timeout", "no connection to the provider within the time-out"),
    ),
    ((aiohttp.ClientConnectorError,), _not_sent("connect", "the connection to the provider was refused")),
    ((TimeoutError,), _Broken("timeout", Unknown("the request left and no answer came within the time-out"))),
    ((aiohttp.ClientPayloadError,), _Broken("cut_short", Unknown("the request left and the answer was cut short"))),
)


def _no_answer(error: Exception, status: int | None) -> _Broken:
    """Where the call broke. Only the error's class is told: its text may hold the URL."""
    for classes, broken in _BROKEN:
        if isinstance(error, classes):
            return replace(broken, status=status)
    name = type(error).__name__
    return _Broken(name, Unknown(f"the connection broke when the request may have left ({name})"), status)
