"""Reads request bodies within limits: size and time of each, and bytes of all together.

In: a request whose headers were checked. Out: its body, or Denied: 400 incomplete or broken, 408 too slow, 413 too large, 415 encoded, 503
no memory. Guaranteed: bytes are counted as they arrive, whatever the headers declare; a refused body is freed at once. When memory is
used up, the body that has been arriving longest is refused, so slow senders do not keep out fast ones.
"""

import asyncio
import contextlib
from collections import OrderedDict
from types import TracebackType
from typing import Self

from aiohttp import web

from pipelines.serving.denials import Denied
from schemas import metrics

FREE_BYTES = 16 * 1024  # of each body, not counted in the shared memory: a usual webhook is smaller and never refused
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestBodies:
    """The memory that all bodies share: at most `most` bytes, `body_most` and `seconds` for each body. Used on the gateway's event loop."""

    def __init__(self, *, most: int, body_most: int, seconds: float) -> None:
        self._most = most
        self.body_most = body_most
        self.seconds = seconds
        self._held = 0
        self._arriving: OrderedDict[RequestBody, None] = OrderedDict()  # bodies in the shared memory, the oldest first

    @property
    def held(self) -> int:
        """Bytes in use of the shared memory."""
        return self._held

    def charge(self, body: "RequestBody", size: int) -> None:
        """Adds `size` bytes of a body. Above the bound, the oldest bodies are refused, in the end this body itself."""
        self._arriving.setdefault(body)
        self._held += size
        while self._held > self._most and self._arriving:
            oldest, _ = self._arriving.popitem(last=False)
            oldest.evict()
        metrics.GATEWAY_BODY_BYTES.set(self._held)

    def completed(self, body: "RequestBody") -> None:
        """The body has arrived completely: it is no longer refused for others."""
        self._arriving.pop(body, None)

    def release(self, body: "RequestBody", size: int) -> None:
        """Frees the `size` bytes of a body."""
        self._arriving.pop(body, None)
        self._held -= size
        metrics.GATEWAY_BODY_BYTES.set(self._held)


class RequestBody:
    """One request's body. It counts in the shared memory until the `with` ends, that is until Kafka has acknowledged its items. Raises
    Denied at once if the headers suffice to refuse it."""

    def __init__(self, bodies: RequestBodies, request: web.Request) -> None:
        self._bodies = bodies
        self._request = request
        self._bytes = bytearray()  # in a list, a chunk of one byte would take 40 bytes
        self._charged = 0
        self._evicted = False
        self._deadline: asyncio.Timeout | None = None
        if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            raise Denied(415, "a body with a Content-Encoding is not accepted: send it without one")
        if (request.content_length or 0) > bodies.body_most:
            raise self._too_large()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget()

    async def read(self) -> bytes:
        """The whole body. Raises Denied."""
        content = self._request.content
        if content.is_eof() and content.exception() is None:  # it arrived with its head: there is nothing to wait for
            self._add(content.read_nowait())
            return self._taken()
        try:
            async with asyncio.timeout(self._bodies.seconds) as self._deadline:
                await _send_continue(self._request)
                async for chunk in content.iter_any():
                    self._add(chunk)
        except TimeoutError:
            if self._evicted:
                raise self._no_room() from None
            raise Denied(408, "the body did not arrive in time") from None
        except (web.RequestPayloadError, ConnectionError, RuntimeError):  # RuntimeError: the sender has disconnected
            raise Denied(400, "the body is incomplete or broken") from None
        if self._evicted:
            raise self._no_room()
        return self._taken()

    def evict(self) -> None:
        """Frees its memory now, for other bodies; `read` refuses it as soon as its task continues."""
        self._evicted = True
        self._forget()
        if self._deadline is not None:
            with contextlib.suppress(RuntimeError):  # its time-out has just passed
                self._deadline.reschedule(asyncio.get_running_loop().time())

    def _add(self, chunk: bytes) -> None:
        if self._evicted:
            raise self._no_room()
        size = len(self._bytes) + len(chunk)
        if size > self._bodies.body_most:
            raise self._too_large()
        self._bytes += chunk
        more = max(0, size - FREE_BYTES) - self._charged
        if more:
            self._charged += more
            self._bodies.charge(self, more)
            if self._evicted:
                raise self._no_room()

    def _taken(self) -> bytes:
        body = bytes(self._bytes)
        self._bytes.clear()
        self._bodies.completed(self)
        return body

    def _forget(self) -> None:
        self._bytes.clear()
        self._bodies.release(self, self._charged)
        self._charged = 0

    def _too_large(self) -> Denied:
        return Denied(413, f"the body is larger than {self._bodies.body_most} bytes")

    def _no_room(self) -> Denied:
        return Denied(503, "too many bodies at once, send it again", 1)


async def expected(_: web.Request) -> None:
    """Replaces aiohttp's handler of `Expect: 100-continue`, which asks for the body before the headers are checked."""


async def _send_continue(request: web.Request) -> None:
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(_CONTINUE)
        request.writer.output_size = 0  # the answer has not begun
