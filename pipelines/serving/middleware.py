"""What every request to the gateway passes before it is looked at, and what its answer passes at the end.

In: a request. Out: the handler's answer, or a refusal: 429 by address, what the handler denied, 503 for an error nobody expected.
Guaranteed: nothing raised by a handler reaches aiohttp, which would log what was sent; a refused request is counted, logged at most once
and costs its address a token, a proven one does not. An address without tokens is still heard where that costs no more than to refuse it: a
small body of a channel whose bodies are signed. So who floods from somebody's address, or through the same proxy, does not silence them.
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
_WAIT = web.RequestKey("wait", float)  # of a request whose address has no token left


class GatewayMiddleware:
    """Limits by address and account, and the room for bodies. `signed` are those of the channels whose bodies are signed."""

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
        return RequestBody(self.bodies, request)

    def proven(self, request: web.Request) -> None:
        """The request comes from whom it says: it does not count against its address, and its connection does not give way."""
        if isinstance(request.protocol, Connection):
            request.protocol.is_proven()
        if _WAIT not in request:
            self._by_address.give_back(self.addresses.of_request(request), self._clock())

    def admit(self, accounts: frozenset[str]) -> None:
        """A proven request for these accounts; raises Denied when one of them has had too many."""
        wait = max((self._by_account.take(account, self._clock()) for account in accounts), default=0.0)
        if wait:
            raise Denied(429, "too many requests for this account", wait)

    def middleware(self) -> Middleware:
        @web.middleware
        async def pass_front(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = request.protocol if isinstance(request.protocol, Connection) else None
            if connection is not None:
                connection.asks()
            try:
                response = await self._answered(request, handler)
            finally:
                if connection is not None:
                    connection.waits()
            if not request.content.is_eof():
                response.force_close()
            return response

        return pass_front

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._count(request)
            return await handler(request)
        except Denied as reason:
            denied = _too_many(request[_WAIT]) if _WAIT in request and reason.status < 429 else reason
            self.denials.note(self._what(request), denied.status, denied.because)
            return denied.response()
        except web.HTTPException as error:  # no such path, or not with this method
            self.denials.note(self._what(request), error.status, "no such path or method")
            return web.Response(status=error.status, text=error.reason)
        except Exception as error:  # noqa: BLE001  # whatever it is, the sender is to send it again and the log is to say where
            log.error("request failed", what=self._what(request), error=type(error).__name__, where=_place(error))
            return web.Response(status=503, text="not kept, send it again", headers={"Retry-After": "1"})

    def _count(self, request: web.Request) -> None:
        wait = self._by_address.take(self.addresses.of_request(request), self._clock())
        if wait:
            if not self._costs_little(request):
                raise _too_many(wait)
            request[_WAIT] = wait
        if _head_bytes(request) > HEAD_BYTES:
            raise Denied(431, "the head of a request is too long")

    def _costs_little(self, request: web.Request) -> bool:
        """Whether to hear it costs no more than to refuse it, and no secret can be found by it: by GET, the verify token could."""
        length = request.content_length
        small = length is not None and length <= FREE_BYTES
        return request.method == "POST" and small and self._what(request) in self._signed

    def _what(self, request: web.Request) -> str:
        channel = request.match_info.get("channel", "")
        return channel if channel in self._channels else "unknown"


def _too_many(wait: float) -> Denied:
    return Denied(429, "too many requests from this address", wait)


def _head_bytes(request: web.Request) -> int:
    """As it came, but for the request line's method and version."""
    return len(request.raw_path) + sum(len(name) + len(value) + len(": \r\n") for name, value in request.raw_headers)


def _place(error: Exception) -> str:
    """Where it was raised; not what it says, which may quote what was sent."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}"
