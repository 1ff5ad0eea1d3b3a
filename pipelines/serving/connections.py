"""The gateway's connections: how many there are, and how long each may take to ask for something.

In: what arrives on sockets. Out: requests, by aiohttp. Guaranteed: a connection has so long for the head of a request, and may be idle so
long between two; there are no more than so many, whole and by address, until their sockets are closed. When there are, the one that has
been waiting for longest gives way to the new one, else the one whose request has proven nothing for longest, so that whoever asks is never
held up by whoever does not.
aiohttp has no deadline for heads and inflates by itself; this is its protocol with both put right.
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


class Connections:
    """All of them. `bounds` may be left as they are by who needs no limits; `close` ends the clock that looks for late ones."""

    def __init__(self, bounds: RequestLimits, addresses: Addresses, denials: Denials) -> None:
        self.bounds = bounds
        self._addresses = addresses
        self._denials = denials
        self._all: dict[Connection, str] = {}  # -> address
        self._by_address: dict[str, int] = {}
        self._waiting: dict[Connection, None] = {}  # for a request, the one that waits for longest first
        self._asking: dict[Connection, None] = {}  # those whose request has proven nothing yet, the oldest first
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, connection: "Connection", peer: str) -> bool:
        """False when there is no room, and nobody to give way."""
        name, bounds = named(peer), self.bounds
        if self._by_address.get(name, 0) >= bounds.connections_by_address and not self._addresses.is_proxy(peer):
            rivals = (each for each in chain(self._waiting, self._asking) if self._all[each] == name)
            if not self._give_way(next(rivals, None), "too many connections of one address"):
                return False
        is_full = len(self._all) >= bounds.connections
        if is_full and not self._give_way(next(chain(self._waiting, self._asking), None), "too many connections"):
            return False
        self._all[connection] = name
        self._by_address[name] = self._by_address.get(name, 0) + 1
        metrics.GATEWAY_CONNECTIONS.set(len(self._all))
        self.waits(connection, bounds.head_seconds)
        return True

    def leave(self, connection: "Connection") -> None:
        """It is closed. Asking twice is asking once."""
        name = self._all.pop(connection, None)
        if name is None:
            return
        self._waiting.pop(connection, None)
        self._asking.pop(connection, None)
        left = self._by_address[name] - 1
        if left:
            self._by_address[name] = left
        else:
            del self._by_address[name]
        metrics.GATEWAY_CONNECTIONS.set(len(self._all))

    def asks(self, connection: "Connection") -> None:
        """A request has begun."""
        self._waiting.pop(connection, None)
        if connection in self._all:
            self._asking[connection] = None

    def is_proven(self, connection: "Connection") -> None:
        """Its request comes from whom it says: until it is answered, it does not give way."""
        self._asking.pop(connection, None)

    def waits(self, connection: "Connection", seconds: float) -> None:
        """It has so long for its next request, or to be gone."""
        self._asking.pop(connection, None)
        if connection in self._all:
            connection.deadline = self._loop.time() + seconds
            self._waiting.pop(connection, None)
            self._waiting[connection] = None

    def deny(self, status: int, why: str) -> None:
        self._denials.note(WHAT, status, why)

    def close(self) -> None:
        self._clock.cancel()
        self._denials.tell()

    def _give_way(self, connection: "Connection | None", why: str) -> bool:
        self.deny(429, why)
        if connection is None:
            return False
        connection.abort()
        self.leave(connection)
        return True

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in [each for each in self._waiting if each.deadline <= now]:
            connection.is_late()
            self.waits(connection, LINGER_SECONDS)  # for the last of an answer to be taken
        self._denials.tell()
        self._clock = self._loop.call_later(SWEEP_SECONDS, self._sweep)


class Connection(RequestHandler):
    """aiohttp's protocol of one connection, that reads little at a time, inflates nothing and has a deadline."""

    __slots__ = ("_body", "_connections", "_head_bytes", "_socket", "deadline")

    def __init__(self, server: web.Server, connections: Connections) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=connections.bounds.idle_seconds,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes it as "write none", as its own runners do
            auto_decompress=False,
            lingering_time=LINGER_SECONDS,
            read_bufsize=RECEIVE_BYTES // 2,
        )
        self._connections = connections
        self._socket: asyncio.Transport | None = None  # aiohttp forgets its own when it begins to close
        self._body: StreamReader = EMPTY_PAYLOAD  # of the request that came last
        self._head_bytes = 0  # of a request that has not begun yet
        self.deadline = 0.0
        # Requests sent before the last one is answered wait here: a body of each is in memory.
        self._max_msg_queue_size, self._msg_queue_resume_size = 2, 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if not self._connections.enter(self, str(peer[0]) if isinstance(peer, tuple) else ""):
            self._socket.abort()
            return
        transport.max_size = RECEIVE_BYTES  # type: ignore[attr-defined]  # of asyncio's socket transports: bytes of one recv
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.leave(self)
        if self._task_handler is not None and not self._request_in_progress:
            self._task_handler.cancel()  # else it goes on reading a refused body that will not come
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        begun, is_of_body = self._request_count, not self._body.is_eof()
        super().data_received(data)
        if self._request_count != begun:
            self._head_bytes, self._body = 0, self._messages[-1][1]
        elif data and not is_of_body:  # part of a head, perhaps while the request before is being answered
            self._head_received(len(data))

    def _head_received(self, size: int) -> None:
        is_first, self._head_bytes = not self._head_bytes, self._head_bytes + size
        if self._head_bytes > HEAD_BYTES:
            self._connections.deny(431, "the head of a request is too long")
            self._end(_TOO_LONG)
        elif is_first and self._waiter is not None:
            self._connections.waits(self, self._connections.bounds.head_seconds)

    def asks(self) -> None:
        self._connections.asks(self)

    def is_proven(self) -> None:
        self._connections.is_proven(self)

    def waits(self) -> None:
        bounds = self._connections.bounds
        self._connections.waits(self, bounds.head_seconds if self._head_bytes else bounds.idle_seconds)

    def is_late(self) -> None:
        """Its deadline is over."""
        if self._is_writing():
            self.abort()
        elif self._head_bytes:
            self._connections.deny(408, "the head of a request did not come in time")
            self._end(_TOO_LATE)
        else:
            self.force_close()

    def abort(self) -> None:
        """Closes at once, whatever is still to be sent."""
        self.force_close()
        if self._socket is not None:
            self._socket.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # so does this
    ) -> web.StreamResponse:
        """What is no HTTP. aiohttp's own would log a traceback and answer with what was sent."""
        if status >= 500:
            return super().handle_error(request, status, exc)
        self._connections.deny(status, "the request is no HTTP")
        response = web.Response(status=status, text="the request is no HTTP")
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:  # noqa: ARG002  # they quote what was sent
        """Of aiohttp itself; an error of ours is answered before it comes here (pipelines/serving/middleware.py)."""
        error = kw.get("exc_info")
        self.logger.error("HTTP server failed: %s", type(error).__name__)

    def _is_writing(self) -> bool:
        return self._socket is not None and self._socket.get_write_buffer_size() > 0

    def _end(self, answer: bytes) -> None:
        self._head_bytes = 0
        if self.transport is None or self._waiter is None or self._is_writing():
            self.abort()  # the answer would stand before that of another request, or after the end
        else:
            self.transport.write(answer)
            self.force_close()
