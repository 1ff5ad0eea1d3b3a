"""One HTTP call to a provider, and the outcome of a call without an answer.

What enters: URL, headers, body. What leaves: the Answer, whatever its status; or RetryLater when the request surely did not leave
(DNS, connect, TLS, pool), or Unknown when it may have left (read time-out, reset, an incomplete answer). Guaranteed: nothing is retried,
no redirect is followed, at most `answer_limit` bytes of an answer are accepted; no sentence contains the URL (Telegram's has the token), a
header or the body; each call, also a cancelled one, leaves a LoggedCall in the call log. Raises nothing but cancellation.
"""

import ssl
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from connectors.call_log import CALL_LOG, LoggedCall
from connectors.json_fields import decode
from schemas.outcomes import RetryLater, Unknown

ANSWER_LIMIT = 1_000_000
LONGEST_WAIT_SECONDS = 86_400.0
_TARGETS_KEPT = 1000  # parsed URLs; a channel has few: accounts and methods
_UNREAD = object()


@dataclass(slots=True)
class Answer:
    """The provider's answer, of any status. `headers` are case-insensitive; `body` has at most ANSWER_LIMIT bytes."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    _json: object = field(default=_UNREAD, init=False, repr=False, compare=False)

    def json(self) -> object:
        """The decoded body, None when it is not JSON. Decodes once and keeps the value."""
        if self._json is _UNREAD:
            self._json = decode(self.body)
        return self._json

    def retry_after(self) -> float | None:
        """Seconds of the Retry-After header, 0 to LONGEST_WAIT_SECONDS; a date counts from the answer's own Date header.

        None when the header is missing or malformed. https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
        """
        given = self.headers.get("Retry-After", "").strip()
        if given.isascii() and given.isdecimal():
            return min(float(given), LONGEST_WAIT_SECONDS)
        try:
            wait = parsedate_to_datetime(given) - parsedate_to_datetime(self.headers.get("Date", ""))
        except (ValueError, TypeError):
            return None
        return min(max(wait.total_seconds(), 0.0), LONGEST_WAIT_SECONDS)


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """What the call log keeps of an answer: the provider's error code, and the provider's own id of the call."""

    error: str | None = None
    request_id: str | None = None


@dataclass(slots=True, repr=False)  # the URL or the headers have the token
class _Request:
    method: str
    url: str
    body: bytes | None
    headers: Mapping[str, str]


CallCoroutine = Coroutine[Any, Any, Answer | RetryLater | Unknown]


class HttpCalls:
    """Pooled connections to one provider, opened at the first call inside the running loop. One instance is for one event loop; its
    methods may run concurrently.

    At most `connections` calls are in flight, more wait for a pooled connection. Connecting, that wait included, may take half of
    `timeout_seconds`, the whole call all of it, so a time-out shows whether the request left. `secrets` are replaced in URLs before the
    call log gets them; `error_details` reads an answer for the call log and must not raise. `tls` has the trusted authorities, by default
    those of the machine.
    """

    def __init__(
        self,
        *,
        channel: str,
        secrets: Sequence[str],
        error_details: Callable[[Answer], ErrorDetails],
        timeout_seconds: float,
        connections: int,
        tls: ssl.SSLContext | None = None,
        answer_limit: int = ANSWER_LIMIT,
    ) -> None:
        self._channel = channel
        self._secrets = tuple(secret for secret in secrets if secret)
        self._error_details = error_details
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=timeout_seconds / 2)
        self._connections = connections
        self._answer_limit = answer_limit
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        self._session: aiohttp.ClientSession | None = None
        self._targets: dict[str, URL] = {}

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, delivery_id: str, attempt: int
    ) -> CallCoroutine:
        """One call for a delivery; `delivery_id` and `attempt` are for the call log. Awaiting it makes the call.

        Returns Answer, RetryLater or Unknown within `timeout_seconds`. Raises nothing but cancellation; a cancelled call may have left.
        """
        return self._logged(_Request("POST", url, body, headers), delivery_id, attempt)

    def get(self, url: str, headers: Mapping[str, str]) -> CallCoroutine:
        """One harmless call that belongs to no delivery; otherwise as `post`."""
        return self._logged(_Request("GET", url, None, headers), "", 0)

    async def _logged(self, request: "_Request", delivery_id: str, attempt: int) -> Answer | RetryLater | Unknown:
        started_at, began = time.time_ns() // 1_000_000, time.perf_counter()
        result: Answer | _Broken = _CANCELLED
        try:
            result = await self._call(request)
        finally:
            details = ErrorDetails(result.name) if isinstance(result, _Broken) else self._error_details(result)
            CALL_LOG.record(
                LoggedCall(
                    started_at=started_at,
                    duration_ms=round((time.perf_counter() - began) * 1000, 3),
                    channel=self._channel,
                    delivery_id=delivery_id,
                    attempt=attempt,
                    method=request.method,
                    url=self._shown(request.url),
                    status=result.status,
                    error=details.error,
                    request_id=_plain(details.request_id),
                )
            )
        return result.outcome if isinstance(result, _Broken) else result

    async def _call(self, request: "_Request") -> "Answer | _Broken":
        status, target = None, self._targets.get(request.url) or self._target(request.url)
        if target is None or not all(value.isprintable() for value in request.headers.values()):
            return _MALFORMED  # checked before the call, so that the request surely did not leave
        try:
            async with self._pool().request(
                request.method, target, data=request.body, headers=request.headers, allow_redirects=False
            ) as response:
                status = response.status
                if _is_short(response, self._answer_limit):
                    return Answer(status, response.headers, await response.read())
                kept = bytearray()
                async for chunk in response.content.iter_any():
                    kept += chunk
                    if len(kept) > self._answer_limit:
                        sentence = f"the provider answered HTTP {status} with more than {self._answer_limit} bytes"
                        return _Broken("too_long", Unknown(sentence), status)
                return Answer(status, response.headers, bytes(kept))
        except (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError, ValueError) as error:
            return _no_answer(error, status)

    def _target(self, url: str) -> URL | None:
        """The parsed URL, None when it is no usable http or https URL."""
        try:
            target = URL(url, encoded=True)
            if not (target.scheme in ("http", "https") and target.host and target.port):
                return None
        except ValueError:
            return None
        if len(self._targets) >= _TARGETS_KEPT:
            self._targets.clear()
        self._targets[url] = target
        return target

    def _shown(self, url: str) -> str:
        shown = url.partition("?")[0]
        for secret in self._secrets:
            shown = shown.replace(secret, "***")
        return shown

    async def close(self) -> None:
        """Writes what the call log holds and closes the pooled connections. A later call opens new ones."""
        CALL_LOG.flush()
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
                # Idle connections close before the providers' own keep-alive ends, so that few requests use a closed one.
                connector=aiohttp.TCPConnector(
                    limit=self._connections, keepalive_timeout=20, ttl_dns_cache=60, ssl=self._tls
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


@dataclass(frozen=True, slots=True)
class _Broken:
    """A call without a complete answer: its name in the call log, and its outcome. `status` is set when the answer had begun."""

    name: str
    outcome: RetryLater | Unknown
    status: int | None = None


def _not_sent(name: str, sentence: str, after_seconds: float | None = None) -> _Broken:
    return _Broken(name, RetryLater(f"not sent: {sentence}", name, after_seconds))


def _plain(request_id: str | None) -> str | None:
    """The request id when it looks like one, so that nothing else gets into the log."""
    return (
        request_id
        if request_id and len(request_id) <= 100 and request_id.isascii() and request_id.isprintable()
        else None
    )


def _is_short(response: aiohttp.ClientResponse, limit: int) -> bool:
    """Whether Content-Length proves that the answer is within the limit. A compressed body may grow when it is decoded."""
    length = response.content_length
    return length is not None and length <= limit and "Content-Encoding" not in response.headers


_CANCELLED = _Broken("cancelled", Unknown("the worker ended during the call"))
_MALFORMED = _not_sent("url", "the provider's base URL or the token is malformed; correct the setting", 60.0)
# The first entry whose classes match an error decides where the call broke, so the narrower class is first.
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
    """Where the call broke. Only the name of the error's class is used: its text may contain the URL."""
    for classes, broken in _BROKEN:
        if isinstance(error, classes):
            return replace(broken, status=status)
    name = type(error).__name__
    return _Broken(name, Unknown(f"the connection broke when the request may have left ({name})"), status)
