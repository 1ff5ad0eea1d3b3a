"""The gateway's middleware: limits by address and account, and the answer to every error.

In: a request. Out: the handler's answer, or a refusal: 429 by address, what the handler denied, 503 for an unexpected error. Guaranteed: no
exception of a handler reaches aiohttp, which would log the request's content. A refused request is counted, logged at most once and
costs its address a token; a proven request costs none. Without tokens, a small body of a channel with signed bodies is still read,
because refusing it would cost as much. So a flood from the same address, or through the same proxy, does not keep out the provider.
"""

import time
from collections.abc import Callable

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from pipelines.serving.addresses import Addresses
from pipelines.serving.connections import Connection
from pipelines.serving.denials import Denials, Denied
from pipelines.serving.request_bodies import FREE_BYTES, RequestBodies, RequestBody
from pipelines.serving.request_limits import BURST_SECONDS, HEAD_BYTES, RequestLimits
from pipelines.serving.request_rates import RequestRates

log = structlog.get_logger(__name__)
_WAIT = web.RequestKey("wait", float)  # seconds until its address has a token again


class GatewayMiddleware:
    """Limits by address and account, and memory for bodies. `signed` are those of `channels` whose bodies are signed.

    All methods run on the gateway's event loop and do not block."""

    def __init__(
        self,
        bounds: RequestLimits,
        channels: frozenset[str],
        signed: frozenset[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bounds = bounds
        self.addresses = Addresses(bounds.proxies)
        self.denials = Denials()
        self.bodies = RequestBodies(most=bounds.bodies_bytes, body_most=bounds.body_bytes, seconds=bounds.body_seconds)
        self._channels = channels
        self._signed = signed
        self._clock = clock
        self._by_address = RequestRates(bounds.unproven_by_address, BURST_SECONDS * bounds.unproven_by_address)
        self._by_account = RequestRates(bounds.requests_by_account, BURST_SECONDS * bounds.requests_by_account)

    def body(self, request: web.Request) -> RequestBody:
        """The body of a request, to be read within a `with`. Raises Denied if the headers suffice to refuse it."""
        return RequestBody(self.bodies, request)

    def proven(self, request: web.Request) -> None:
        """The request is authentic: it costs its address no token, and its connection is not closed for a new one."""
        if isinstance(request.protocol, Connection):
            request.protocol.request_proven()
        if _WAIT not in request:
            self._by_address.give_back(self.addresses.of_request(request), self._clock())

    def admit(self, accounts: frozenset[str]) -> None:
        """Counts a proven request for these accounts. Raises Denied (429) if one of them has no token left."""
        wait = max((self._by_account.take(account, self._clock()) for account in accounts), default=0.0)
        if wait:
            raise Denied(429, "too many requests for this account", wait)

    def middleware(self) -> Middleware:
        """The aiohttp middleware that applies the limits."""

        @web.middleware
        async def limited(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = request.protocol if isinstance(request.protocol, Connection) else None
            if connection is not None:
                connection.request_began()
            try:
                response = await self._answered(request, handler)
            finally:
                if connection is not None:
                    connection.request_ended()
            if not request.content.is_eof():
                response.force_close()
            return response

        return limited

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._count(request)
            return await handler(request)
        except Denied as reason:
            denied = _too_many(request[_WAIT]) if _WAIT in request and reason.status < 429 else reason
            self.denials.note(self._what(request), denied.status, denied.because)
            return denied.response()
        except web.HTTPException as error:  # unknown path or method
            self.denials.note(self._what(request), error.status, "no such path or method")
            return web.Response(status=error.status, text=error.reason)
        except Exception as error:  # noqa: BLE001  # the sender must send it again, and the log must say where it failed
            log.error("request failed", what=self._what(request), error=type(error).__name__, where=_place(error))
            return web.Response(status=503, text="not stored, send it again", headers={"Retry-After": "1"})

    def _count(self, request: web.Request) -> None:
        wait = self._by_address.take(self.addresses.of_request(request), self._clock())
        if wait:
            if not self._costs_little(request):
                raise _too_many(wait)
            request[_WAIT] = wait
        if _head_bytes(request) > HEAD_BYTES:
            raise Denied(431, "the head of the request is too long")

    def _costs_little(self, request: web.Request) -> bool:
        """Whether reading it costs no more than refusing it, and helps to guess no secret. With GET, the verify token could be guessed."""
        length = request.content_length
        small = length is not None and length <= FREE_BYTES
        return request.method == "POST" and small and self._what(request) in self._signed

    def _what(self, request: web.Request) -> str:
        channel = request.match_info.get("channel", "")
        return channel if channel in self._channels else "unknown"


def _too_many(wait: float) -> Denied:
    return Denied(429, "too many requests from this address", wait)


def _head_bytes(request: web.Request) -> int:
    """Bytes of the head as received, without the method and the version."""
    return len(request.raw_path) + sum([len(name) + len(value) + len(": \r\n") for name, value in request.raw_headers])


def _place(error: Exception) -> str:
    """Where the error was raised. Its text is left out, because it may quote the request."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}"
