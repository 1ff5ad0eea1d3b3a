"""Serves an aiohttp application on a port, with or without limits of connections, until the process is stopped.

In: applications and addresses. Out: served requests. Guaranteed: requests in progress at the stop have STOP_SECONDS to be answered; a
port that cannot be opened is one sentence (CannotListen).
"""

import asyncio
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import cast

import structlog
from aiohttp import web

from pipelines.serving.connections import Connection, OpenConnections
from pipelines.serving.middleware import GatewayMiddleware

BACKLOG = 128  # asyncio also accepts up to this many connections at once, before one can be refused
SPARE_FILES = 256 + BACKLOG  # open files besides those of connections
STOP_SECONDS = 5.0  # for requests in progress; the supervisor of the development stack waits for 10 s
log = structlog.get_logger(__name__)


class CannotListen(Exception):
    """The port cannot be opened; the sentence says which port and why."""


@asynccontextmanager
async def bounded(app: web.Application, limits: GatewayMiddleware, host: str, port: int) -> AsyncIterator[int]:
    """Serves `app` within `limits`; gives the port. Runs on the current event loop. Raises CannotListen."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    server, connections = (
        cast("web.Server", runner.server),
        OpenConnections(limits.bounds, limits.addresses, limits.denials),
    )
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
    """Serves `app` without limits, for known clients (probes, serialisers); gives the port. Runs on the current event loop. Raises
    CannotListen."""
    runner = web.AppRunner(app, access_log=None, auto_decompress=False, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    try:
        with _as_sentence(host, port):
            await web.TCPSite(runner, host, port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def until_signal() -> None:
    """Returns on SIGTERM or SIGINT. Call it on the main thread's loop."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()


def files_for(connections: int) -> int:
    """Raises the process's limit of open files for this number of connections; returns how many connections it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    allowed = min(connections, max(16, wanted - SPARE_FILES))
    if allowed < connections:
        log.warning("limit of open files allows fewer connections", wanted=connections, allowed=allowed)
    return allowed


@contextmanager
def _as_sentence(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotListen(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
