"""Serving an application on a port, within the bounds of its connections, until it is told to stop.

In: applications and addresses. Out: served requests. Guaranteed: what was asked before the stop is answered; a port that cannot be had is
one sentence (CannotListen).
"""

import asyncio
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import cast

import structlog
from aiohttp import web

from pipelines.serving.connections import Connection, Connections
from pipelines.serving.middleware import GatewayMiddleware

BACKLOG = 128  # as many new connections are also taken in one go, before any of them may be refused
SPARE_FILES = 256 + BACKLOG  # beside those of connections
STOP_SECONDS = 5.0  # for requests under way; the supervisor of the development stack waits for ten
log = structlog.get_logger(__name__)


class CannotListen(Exception):
    """The port cannot be had; the sentence says which and why."""


@asynccontextmanager
async def bounded(app: web.Application, front: GatewayMiddleware, host: str, port: int) -> AsyncIterator[int]:
    """Serves within the front's bounds; gives the port."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    server, connections = cast("web.Server", runner.server), Connections(front.bounds, front.addresses, front.denials)
    listening: asyncio.Server | None = None
    try:
        with _as_sentence(host, port):
            listening = await asyncio.get_running_loop().create_server(
                lambda: Connection(server, connections), host, port, backlog=BACKLOG
            )
        yield int(listening.sockets[0].getsockname()[1])
    finally:
        if listening is not None:
            listening.close()
        connections.close()
        await runner.cleanup()


@asynccontextmanager
async def plain(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serves whom we know: probes, and serialisers that look for schemas."""
    runner = web.AppRunner(app, access_log=None, auto_decompress=False, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    try:
        with _as_sentence(host, port):
            await web.TCPSite(runner, host, port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def until_told() -> None:
    """Returns on SIGTERM or SIGINT."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()


def files_for(connections: int) -> int:
    """Raises this process's limit of open files to what so many connections need; returns how many it can have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    allowed = min(connections, max(16, wanted - SPARE_FILES))
    if allowed < connections:
        log.warning("fewer connections than wanted: raise the limit of open files", wanted=connections, allowed=allowed)
    return allowed


@contextmanager
def _as_sentence(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotListen(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
