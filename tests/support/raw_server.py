"""A server on raw sockets: it answers with fixed bytes, or a function handles the connection."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class RawServer:
    """One loopback port; `requests` are the complete requests (head and body) that arrived."""

    behaviour: Behaviour | bytes
    requests: list[bytes] = field(default_factory=list)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await read_request(reader):
                self.requests.append(request)
                if isinstance(self.behaviour, bytes):
                    writer.write(self.behaviour)
                    await writer.drain()
                else:
                    await self.behaviour(reader, writer)
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, TimeoutError):
            pass  # the caller closed the connection, as most tests intend
        finally:
            writer.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Head and body of the next request; empty when the connection has ended."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    lengths = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + await reader.readexactly(int(lengths[0]) if lengths else 0)


@asynccontextmanager
async def raw_server(behaviour: Behaviour | bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    """Runs the server during the block and cuts its connections at the end."""
    raw = RawServer(behaviour)
    tasks: set[asyncio.Task[None]] = set()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await raw.serve(reader, writer)
        tasks.discard(task)

    server = await asyncio.start_server(take, "127.0.0.1", 0, ssl=tls)
    raw.url = f"{'https' if tls else 'http'}://localhost:{server.sockets[0].getsockname()[1]}/v1/messages"
    try:
        yield raw
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
