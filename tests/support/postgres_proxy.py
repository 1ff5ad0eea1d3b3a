"""A TCP proxy in front of PostgreSQL that ends connections at a chosen moment of the protocol.

Enters: the server's port. Leaves: a port that stays the same while the server restarts. Guaranteed: what is matched has reached the server
(a statement) or has been done by it (an answer) before the connection is cut; an answer that is matched never reaches the client.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

COPY_BEGINS = b"PGCOPY\n\xff\r\n\x00"  # the first bytes of the rows, from the client
COMMITTED = b"C\x00\x00\x00\x0bCOMMIT\x00"  # PostgreSQL's answer to a commit


class PostgresProxy:
    """One proxy; all methods run on the loop that made it."""

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self.fired = asyncio.Event()
        self._server_port = server_port
        self._wanted: bytes | None = None
        self._passes = 0
        self._then: Callable[[], None] = lambda: None
        self._connections: set[asyncio.Task[None]] = set()

    def cut_at(self, bytes_: bytes, then: Callable[[], None] = lambda: None, *, passes: int = 0) -> None:
        """Cuts the connection when these bytes pass once more than `passes` times, after calling `then`."""
        self._wanted, self._then, self._passes = bytes_, then, passes

    @asynccontextmanager
    async def running(self) -> AsyncIterator["PostgresProxy"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await server.wait_closed()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        ends = [to_client]
        pumps: list[asyncio.Task[None]] = []
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
            ends.append(to_server)
            pumps.append(asyncio.create_task(self._pump(client, to_server, answers=False)))
            pumps.append(asyncio.create_task(self._pump(server, to_client, answers=True)))
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            return  # the server is away, or the test has ended: the client's connection ends
        finally:
            for pump in pumps:
                pump.cancel()
            for end in ends:
                end.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, answers: bool) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                met = self._wanted is not None and self._wanted in data
                if met and self._passes:
                    self._passes -= 1
                    met = False
                if not (met and answers):
                    target.write(data)
                    await target.drain()
                if met:
                    self._wanted = None
                    self._then()
                    self.fired.set()
                    return
