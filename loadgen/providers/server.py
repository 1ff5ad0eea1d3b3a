"""The HTTP shell of a simulated provider: its own routes, the control API and the log.

What enters: a Provider and a port. What leaves: a server that runs until SIGTERM or SIGINT, then writes the log to its end.
    GET  /_control/health    {"provider": ..., "lines": newest n of the log, "pending": notices not yet taken}
    GET  /_control/faults    the knobs         POST the ones to change
    POST /_control/inbound   makes a person write to us; 202 with what was scheduled
    GET  /_log?after=N&limit=M
Low-level aiohttp server: no router, and a handler that outlives a client that hangs up.
"""

import asyncio
import dataclasses
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import orjson
from aiohttp import web

from loadgen.providers.faults import Faults
from loadgen.providers.log import Log
from loadgen.providers.webhooks import Webhooks


class Provider(Protocol):
    """One simulated provider."""

    name: str
    faults: Faults
    log: Log
    webhooks: Webhooks

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers one call of the provider's API."""
        ...

    def write_to_us(self, wanted: Mapping[str, Any]) -> str:
        """Schedules a message of a person to us and returns its id; raises ValueError with a sentence."""
        ...


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, headers=headers, content_type="application/json")


def bad_gateway() -> web.Response:
    """What a front end answers when the API behind it broke: HTML, and no word whether the call was taken."""
    return web.Response(
        status=502, content_type="text/html", text="<html><head><title>502 Bad Gateway</title></head></html>"
    )


async def hang(request: web.BaseRequest, seconds: float) -> web.Response:
    """Holds a call until the client hangs up or `seconds` are over, then cuts the connection."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end and request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110  # aiohttp tells of no disconnect
        await asyncio.sleep(0.1)
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


@asynccontextmanager
async def running(provider: Provider, host: str, port: int) -> AsyncIterator[int]:
    """The provider at work; yields the port it listens on."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith("/_"):
            return await _control(provider, request)
        return await provider.answer(request)

    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=0.5)
    await runner.setup()
    background = [asyncio.create_task(provider.webhooks.run()), asyncio.create_task(provider.log.keep_flushing())]
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        provider.log.close()


async def serve(provider: Provider, host: str, port: int) -> None:
    """Runs until SIGTERM or SIGINT; says on standard output where it listens."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with running(provider, host, port) as bound:
        sys.stdout.write(f"{provider.name} simulator listening on http://{host}:{bound}\n")
        sys.stdout.flush()
        await stopped.wait()


async def _control(provider: Provider, request: web.BaseRequest) -> web.Response:
    route = _CONTROL.get((request.method, request.path))
    if route is None:
        return json_response({"error": f"nothing here: {request.method} {request.path}"}, status=404)
    try:
        return route(provider, request, await request.read())
    except ValueError as why:
        return json_response({"error": str(why)}, status=400)


def _health(provider: Provider, _request: web.BaseRequest, _body: bytes) -> web.Response:
    return json_response({"provider": provider.name, "lines": provider.log.lines, "pending": provider.webhooks.pending})


def _knobs(provider: Provider, _request: web.BaseRequest, body: bytes) -> web.Response:
    provider.faults = provider.faults.changed(_object(body))
    return json_response(dataclasses.asdict(provider.faults))


def _inbound(provider: Provider, _request: web.BaseRequest, body: bytes) -> web.Response:
    return json_response({"id": provider.write_to_us(_object(body))}, status=202)


def _page(provider: Provider, request: web.BaseRequest, _body: bytes) -> web.Response:
    after, limit = int(request.query.get("after", "0")), int(request.query.get("limit", "1000"))
    body = provider.log.page(after, min(max(limit, 1), 10_000))
    return web.Response(body=body, content_type="application/json")


_CONTROL: Mapping[tuple[str, str], Callable[[Provider, web.BaseRequest, bytes], web.Response]] = {
    ("GET", "/_control/health"): _health,
    ("GET", "/_control/faults"): _knobs,
    ("POST", "/_control/faults"): _knobs,
    ("POST", "/_control/inbound"): _inbound,
    ("GET", "/_log"): _page,
}


def _object(body: bytes) -> dict[str, Any]:
    value = orjson.loads(body or b"{}")
    if not isinstance(value, dict):
        raise ValueError("send a JSON object")  # noqa: TRY004  # the control API answers every ValueError with 400
    return value
