"""Reading bodies: each within its size and its time, all together within a number of bytes.

In: a request whose headers were looked at. Out: its body, else Denied: 400 cut off or broken, 408 too slow, 413 too large, 503 no room.
Guaranteed: bytes count as they arrive, whatever a header declares; what is refused is forgotten at once. When there is no room, the
body that has been on its way for longest gives way: who sends in one go is not held up by those who never end.
"""

import asyncio
import contextlib
from collections import OrderedDict
from types import TracebackType
from typing import Self

from aiohttp import web

from pipelines.serving.denials import Denied
from schemas import metrics

FREE_BYTES = 16 * 1024  # of each body, beyond what all share: a usual webhook is smaller, and always finds room
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestBodies:
    """The room that all bodies share."""

    def __init__(self, *, most: int, body_most: int, seconds: float) -> None:
        self._most = most
        self.body_most = body_most
        self.seconds = seconds
        self._held = 0
        self._arriving: OrderedDict[RequestBody, None] = OrderedDict()  # those in the shared room, the oldest first

    @property
    def held(self) -> int:
        """Bytes in the shared room."""
        return self._held

    def charge(self, body: "RequestBody", size: int) -> None:
        """`size` more bytes for a body; others give way until there is room, at last the body itself."""
        self._arriving.setdefault(body)
        self._held += size
        while self._held > self._most and self._arriving:
            oldest, _ = self._arriving.popitem(last=False)
            oldest.give_way()
        metrics.GATEWAY_BODY_BYTES.set(self._held)

    def is_whole(self, body: "RequestBody") -> None:
        """It no longer gives way."""
        self._arriving.pop(body, None)

    def release(self, body: "RequestBody", size: int) -> None:
        self._arriving.pop(body, None)
        self._held -= size
        metrics.GATEWAY_BODY_BYTES.set(self._held)


class RequestBody:
    """One request's body, in the room until the `with` ends: also while Kafka has not acknowledged what it told. Raises Denied at once for
    what the headers are enough to refuse."""

    def __init__(self, bodies: RequestBodies, request: web.Request) -> None:
        self._bodies = bodies
        self._request = request
        self._bytes = bytearray()  # chunks of one byte each would take 40 in a list
        self._charged = 0
        self._gave_way = False
        self._deadline: asyncio.Timeout | None = None
        if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            raise Denied(415, "a body with a Content-Encoding is not taken: send it as it is")
        if (request.content_length or 0) > bodies.body_most:
            raise self._too_large()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget()

    async def read(self) -> bytes:
        """All of it."""
        try:
            async with asyncio.timeout(self._bodies.seconds) as self._deadline:
                await _go_on(self._request)
                async for chunk in self._request.content.iter_any():
                    self._add(chunk)
        except TimeoutError:
            if self._gave_way:
                raise self._no_room() from None
            raise Denied(408, "the body did not come in time") from None
        except (
            web.RequestPayloadError,
            ConnectionError,
            RuntimeError,
        ):  # aiohttp raises RuntimeError when the sender has gone
            raise Denied(400, "the body is cut off or broken") from None
        if self._gave_way:
            raise self._no_room()
        whole = bytes(self._bytes)
        self._bytes.clear()
        self._bodies.is_whole(self)
        return whole

    def give_way(self) -> None:
        """To others: it is forgotten now, and refused as soon as its task goes on."""
        self._gave_way = True
        self._forget()
        if self._deadline is not None:
            with contextlib.suppress(RuntimeError):  # its time is over in this very moment
                self._deadline.reschedule(asyncio.get_running_loop().time())

    def _add(self, chunk: bytes) -> None:
        if self._gave_way:
            raise self._no_room()
        size = len(self._bytes) + len(chunk)
        if size > self._bodies.body_most:
            raise self._too_large()
        self._bytes += chunk
        more = max(0, size - FREE_BYTES) - self._charged
        if more:
            self._charged += more
            self._bodies.charge(self, more)
            if self._gave_way:
                raise self._no_room()

    def _forget(self) -> None:
        self._bytes.clear()
        self._bodies.release(self, self._charged)
        self._charged = 0

    def _too_large(self) -> Denied:
        return Denied(413, f"the body is larger than {self._bodies.body_most} bytes")

    def _no_room(self) -> Denied:
        return Denied(503, "too many bodies at once, send it again", 1)


async def expected(_: web.Request) -> None:
    """In place of aiohttp's answer to `Expect: 100-continue`, which asks for the body before anybody looked at the headers."""


async def _go_on(request: web.Request) -> None:
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(_CONTINUE)
        request.writer.output_size = 0  # the answer has not begun
