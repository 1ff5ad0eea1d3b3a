"""A minimal HTTP/1.1 client for webhooks: POSTs over connections that stay open.

What enters: a plain http URL, headers, a body. What leaves: the Reply, or None when the connection broke, the answer was not HTTP or did
not arrive in time. Guaranteed: one request at a time on a connection; when the other side closed an idle connection, the request is sent
again on another one. No TLS, no redirects, no proxies.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

_MOST = 1_000_000  # bytes of an answer


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer without its body: providers do not read it."""

    status: int
    reason: str = ""
    retry_after: str = ""


def parsed(received: bytes, *, is_all: bool = False) -> tuple[Reply, bool] | None:
    """The complete answer in these bytes, and whether the connection can be used again; None while bytes are missing.

    `is_all` means that the connection has ended. Raises ValueError for bytes that are no HTTP answer.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        if is_all or len(received) > _MOST:
            raise ValueError("no head")
        return None
    first, _, rest = received[:end].partition(b"\r\n")
    words = first.split(b" ", 2)
    if not words[0].startswith(b"HTTP/1.") or len(words) < 2:
        raise ValueError("not HTTP/1")
    head = rest.lower()
    status = int(words[1])
    if status < 200:
        return parsed(received[end + 4 :], is_all=is_all)
    if not _is_whole(head, status, received[end + 4 :], is_all):
        return None
    reason = words[2].decode("latin-1") if len(words) > 2 else ""
    stays = words[0] == b"HTTP/1.1" and b"connection: close" not in head and not is_all
    return Reply(status, reason, _header(head, b"retry-after").decode("latin-1")), stays


def _is_whole(head: bytes, status: int, body: bytes, is_all: bool) -> bool:
    """Whether the body is complete."""
    if is_all or status in {204, 304}:
        return True
    if b"chunked" in _header(head, b"transfer-encoding"):
        return body.endswith(b"0\r\n\r\n")
    length = _header(head, b"content-length")
    return bool(length) and len(body) >= int(length)


def _header(head: bytes, name: bytes) -> bytes:
    """The value of a header in a lower-case head, empty when it is missing."""
    at = 0 if head.startswith(name + b":") else head.find(b"\r\n" + name + b":") + 2
    if at == 1:
        return b""
    return head[at + len(name) + 1 :].partition(b"\r\n")[0].strip()


class _Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.is_open = True
        self._received = b""
        self._reply: asyncio.Future[tuple[Reply, bool] | None] | None = None
        self._transport: asyncio.Transport | None = None

    async def exchange(self, request: bytes) -> Reply | None:
        """Sends one request; None when the connection broke before the answer was complete."""
        if self._transport is None or not self.is_open:
            return None
        self._received = b""
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            found = await self._reply
        finally:
            self._reply = None
        if found is None or not found[1]:
            self.close()
        return found[0] if found is not None else None

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # create_connection makes one
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._look(is_all=False)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self.is_open = False
        self._look(is_all=True)

    def _look(self, *, is_all: bool) -> None:
        if self._reply is None or self._reply.done():
            return
        try:
            found = parsed(self._received, is_all=is_all)
        except ValueError:
            self._reply.set_result(None)
            return
        if found is not None:
            self._reply.set_result(found)


class Connections:
    """Connections to one URL's server, as many as there are simultaneous requests. For one event loop."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._head = f"POST {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: */*\r\n".encode()
        self._idle: list[_Connection] = []

    async def post(self, headers: Mapping[str, str], body: bytes, timeout_seconds: float) -> Reply | None:
        """Posts one body; None when no answer came within `timeout_seconds`. Raises nothing but cancellation."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = b"%b%bContent-Length: %d\r\n\r\n%b" % (self._head, lines.encode("latin-1"), len(body), body)
        connection: _Connection | None = None
        reply: Reply | None = None
        try:
            async with asyncio.timeout(timeout_seconds):
                while self._idle and reply is None:
                    connection = self._idle.pop()
                    reply = await connection.exchange(request)
                if reply is None:
                    loop = asyncio.get_running_loop()
                    _, connection = await loop.create_connection(_Connection, self._host, self._port)
                    reply = await connection.exchange(request)
        except (TimeoutError, OSError):
            reply = None
        finally:
            if connection is not None and connection.is_open and reply is not None:
                self._idle.append(connection)
            elif connection is not None:
                connection.close()
        return reply

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
