"""Connections of attackers, from their own addresses on the loopback: they send bytes and return the status of the answer.

In: a port. Out: statuses; HUNG_UP without an answer. Nothing leaves the machine.
"""

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

HUNG_UP = 0
ADDRESSES = 20
GOOD = "127.0.0.1"
UNSIGNED = "sha256=" + "0" * 64  # has the form of a signature, but is wrong
BLOCK = bytes(1 << 16)


def address(number: int) -> str:
    return f"127.0.1.{1 + number % ADDRESSES}"


def request(path: str, headers: Mapping[str, str], body: bytes = b"", *, method: str = "POST") -> bytes:
    """A request head; it has the Content-Length of the body unless `lines` set that or Transfer-Encoding."""
    lines = {"Host": "localhost", **headers}
    if not {"Content-Length", "Transfer-Encoding"} & lines.keys():
        lines["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode("latin-1")
    return f"{method} {path} HTTP/1.1\r\n".encode() + head + b"\r\n" + body


def signature(body: bytes, secret: str) -> dict[str, str]:
    """The signature header, as Meta makes it."""
    return {"X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}


class Line:
    """One connection; any failure counts as HUNG_UP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> bool:
        """False once the server has closed the connection."""
        if self._writer.is_closing() or self._reader.at_eof():
            return False
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError:
            return False
        return True

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def status(self, seconds: float) -> int:
        """The status of the next answer; its body is read as well."""
        try:
            async with asyncio.timeout(seconds):
                head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].partition(b"\r\n")[0].strip()
                await self._reader.readexactly(int(length or 0))
                return int(head.split()[1])
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return HUNG_UP


@asynccontextmanager
async def line(port: int, number: int | None) -> AsyncIterator[Line]:
    """A connection from an attacker's address; without a number, from the good sender's address."""
    source = GOOD if number is None else address(number)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    its = Line(reader, writer)
    try:
        yield its
    finally:
        await its.close()
