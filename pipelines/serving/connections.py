"""Limits the gateway's connections: their number, and the time that each may take for the head of a request.

In: bytes from sockets. Out: requests, by aiohttp. Guaranteed: the time for the head of a request and the idle time between two requests are
bounded. The number of open connections is bounded, in total and by address. At the bound, a new connection closes the one that has
waited longest for a request, else the one with the oldest unproven request; so idle connections never keep out active ones. aiohttp has
no time-out for heads and decompresses bodies by itself; this protocol adds the time-out and never decompresses.
"""

import asyncio
from itertools import chain
from typing import Any, cast

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler

from pipelines.serving.addresses import Addresses, named
from pipelines.serving.denials import Denials
from pipelines.serving.request_limits import HEAD_BYTES, LINGER_SECONDS, RECEIVE_BYTES, RequestLimits
from schemas import metrics

SWEEP_SECONDS = 0.5
WHAT = "connection"
_TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class OpenConnections:
    """All open connections. Create it on the gateway's event loop; all methods run there and never block. A timer closes connections whose
    deadline has passed, until `close`."""

    def __init__(self, bounds: RequestLimits, addresses: Addresses, denials: Denials) -> None:
        self.bounds = bounds
        self._addresses = addresses
        self._denials = denials
        self._all: dict[Connection, str] = {}  # connection -> name of its address
        self._by_address: dict[str, int] = {}
        self._waiting: dict[Connection, None] = {}  # connections without a request; the longest waiting first
        self._unproven: dict[Connection, None] = {}  # connections with an unproven request; the oldest first
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: "Connection", peer: str) -> bool:
        """Adds a new connection from address `peer`; false if the bound is reached and no connection can be closed for it."""
        name, bounds = named(peer), self.bounds
        if self._by_address.get(name, 0) >= bounds.connections_by_address and not self._addresses.is_proxy(peer):
            rivals = (each for each in chain(self._waiting, self._unproven) if self._all[each] == name)
            if not self._make_room(next(rivals, None), "too many connections of one address"):
                return False
        is_full = len(self._all) >= bounds.connections
        if is_full and not self._make_room(next(chain(self._waiting, self._unproven), None), "too many connections"):
            return False
        self._all[connection] = name
        self._by_address[name] = self._by_address.get(name, 0) + 1
        metrics.GATEWAY_CONNECTIONS.set(len(self._all))
        self.await_request(connection, bounds.head_seconds)
        return True

    def remove(self, connection: "Connection") -> None:
        """Removes a closed connection. Harmless to repeat."""
        name = self._all.pop(connection, None)
        if name is None:
            return
        self._waiting.pop(connection, None)
        self._unproven.pop(connection, None)
        left = self._by_address[name] - 1
        if left:
            self._by_address[name] = left
        else:
            del self._by_address[name]
        metrics.GATEWAY_CONNECTIONS.set(len(self._all))

    def request_began(self, connection: "Connection") -> None:
        """A request of the connection has begun; it is unproven."""
        self._waiting.pop(connection, None)
        if connection in self._all:
            self._unproven[connection] = None

    def request_proven(self, connection: "Connection") -> None:
        """The connection's request is authentic: until it is answered, the connection is not closed for a new one."""
        self._unproven.pop(connection, None)

    def await_request(self, connection: "Connection", seconds: float) -> None:
        """The connection has `seconds` for its next request, or to close."""
        self._unproven.pop(connection, None)
        if connection in self._all:
            connection.deadline = self._loop.time() + seconds
            self._waiting.pop(connection, None)
            self._waiting[connection] = None

    def deny(self, status: int, why: str) -> None:
        """Counts and logs a refused connection."""
        self._denials.note(WHAT, status, why)

    def close(self) -> None:
        self._timer.cancel()
        self._denials.log_counted()

    def _make_room(self, connection: "Connection | None", why: str) -> bool:
        self.deny(429, why)
        if connection is None:
            return False
        connection.abort()
        self.remove(connection)
        return True

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in [each for each in self._waiting if each.deadline <= now]:
            connection.deadline_passed()
            self.await_request(connection, LINGER_SECONDS)  # for the sender to take the rest of an answer
        self._denials.log_counted()
        self._timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)


class Connection(RequestHandler):
    """aiohttp's protocol of one connection, with a deadline, small reads and no decompression. Runs on the gateway's event loop."""

    __slots__ = ("_body", "_connections", "_head_bytes", "_socket", "deadline")

    def __init__(self, server: web.Server, connections: OpenConnections) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=connections.bounds.idle_seconds,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None as "no log", as its own runners do
            auto_decompress=False,
            lingering_time=LINGER_SECONDS,
            read_bufsize=RECEIVE_BYTES // 2,
        )
        self._connections = connections
        self._socket: asyncio.Transport | None = None  # aiohttp drops its own reference when it begins to close
        self._body: StreamReader = EMPTY_PAYLOAD  # of the latest request
        self._head_bytes = 0  # of a request whose head is incomplete
        self.deadline = 0.0
        # Requests that are sent before the last one is answered wait here, each with its body in memory.
        self._max_msg_queue_size, self._msg_queue_resume_size = 2, 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if not self._connections.add(self, str(peer[0]) if isinstance(peer, tuple) else ""):
            self._socket.abort()
            return
        transport.max_size = RECEIVE_BYTES  # type: ignore[attr-defined]  # of asyncio's socket transports: bytes of one recv
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.remove(self)
        if self._task_handler is not None and not self._request_in_progress:
            self._task_handler.cancel()  # else it continues to read a refused body that never comes
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        begun, is_of_body = self._request_count, not self._body.is_eof()
        super().data_received(data)
        if self._request_count != begun:
            self._head_bytes, self._body = 0, self._messages[-1][1]
        elif data and not is_of_body:  # part of a head, perhaps while the previous request is being answered
            self._head_received(len(data))

    def _head_received(self, size: int) -> None:
        is_first, self._head_bytes = not self._head_bytes, self._head_bytes + size
        if self._head_bytes > HEAD_BYTES:
            self._connections.deny(431, "the head of the request is too long")
            self._end(_TOO_LONG)
        elif is_first and self._waiter is not None:
            self._connections.await_request(self, self._connections.bounds.head_seconds)

    def request_began(self) -> None:
        self._connections.request_began(self)

    def request_proven(self) -> None:
        self._connections.request_proven(self)

    def request_ended(self) -> None:
        bounds = self._connections.bounds
        self._connections.await_request(self, bounds.head_seconds if self._head_bytes else bounds.idle_seconds)

    def deadline_passed(self) -> None:
        """Closes the connection: with 408 if part of a head has arrived."""
        if self._is_writing():
            self.abort()
        elif self._head_bytes:
            self._connections.deny(408, "the head of the request did not arrive in time")
            self._end(_TOO_LATE)
        else:
            self.force_close()

    def abort(self) -> None:
        """Closes at once and drops data that is not sent yet."""
        self.force_close()
        if self._socket is not None:
            self._socket.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # it quotes the request
    ) -> web.StreamResponse:
        """Answers bytes that are not HTTP. aiohttp's own method would log a traceback and quote the bytes in the answer."""
        if status >= 500:
            return super().handle_error(request, status, exc)
        self._connections.deny(status, "the request is not HTTP")
        response = web.Response(status=status, text="the request is not HTTP")
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:  # noqa: ARG002  # they quote the request
        """An error within aiohttp. Errors of handlers are answered before (pipelines/serving/middleware.py)."""
        error = kw.get("exc_info")
        self.logger.error("HTTP server failed: %s", type(error).__name__)

    def _is_writing(self) -> bool:
        return self._socket is not None and self._socket.get_write_buffer_size() > 0

    def _end(self, answer: bytes) -> None:
        self._head_bytes = 0
        if self.transport is None or self._waiter is None or self._is_writing():
            self.abort()  # an answer now would come before that of another request, or after the end
        else:
            self.transport.write(answer)
            self.force_close()
