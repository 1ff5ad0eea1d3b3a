"""A minimal HTTP/1.1 server and client, so that the measured cost is that of the other end.

What enters: bytes. What leaves: a server that answers every request with the same bytes, and a pump that sends prepared requests over a few
open connections, each as soon as the one before is answered. Both trust the other end and understand Content-Length only.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

_LENGTH = b"content-length:"


class _Messages:
    """Splits a stream of bytes into complete HTTP messages."""

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The body of each message that is complete now."""
        self._kept += data
        while (end := self._kept.find(b"\r\n\r\n")) >= 0:
            head = self._kept[:end].lower()
            at = head.find(_LENGTH)
            length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._kept) < end + 4 + length:
                return
            yield self._kept[end + 4 : end + 4 + length]
            self._kept = self._kept[end + 4 + length :]


def response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def request(url_path: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"POST {url_path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class _Answering(asyncio.Protocol):
    def __init__(self, answer: bytes, seen: Callable[[bytes], None]) -> None:
        self._answer = answer
        self._seen = seen
        self._messages = _Messages()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # asyncio gives one to a stream's protocol
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for body in self._messages.feed(data):
            self._seen(body)
            if self._transport is not None:
                self._transport.write(self._answer)


@asynccontextmanager
async def answering(body: bytes, seen: Callable[[bytes], None] = lambda _: None) -> AsyncIterator[str]:
    """Runs a server during the block whose every answer is this body; yields its URL. `seen` gets the body of each request."""
    answer = response(body)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Answering(answer, seen), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


class _Pumping(asyncio.Protocol):
    def __init__(self, requests: Iterator[bytes], ended: asyncio.Future[None]) -> None:
        self._requests = requests
        self._ended = ended
        self._messages = _Messages()
        self._transport: asyncio.Transport | None = None
        self.bad = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # asyncio gives one to a stream's protocol
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self.bad += data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 200")
        for _ in self._messages.feed(data):
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_exception(exc or ConnectionError("the other end closed the connection"))

    def _next(self) -> None:
        following = next(self._requests, None)
        if following is None:
            if not self._ended.done():
                self._ended.set_result(None)
        elif self._transport is not None:
            self._transport.write(following)


async def pump(port: int, requests: Iterator[bytes], connections: int = 32) -> int:
    """Sends all requests; returns how many were not answered 200."""
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(connections):
        ended: asyncio.Future[None] = loop.create_future()
        made.append((*await loop.create_connection(lambda e=ended: _Pumping(requests, e), "127.0.0.1", port), ended))  # type: ignore[misc]  # mypy cannot type the default argument of a lambda
    await asyncio.gather(*(ended for _, _, ended in made))
    for transport, _, _ in made:
        transport.close()
    return sum(protocol.bad for _, protocol, _ in made)
