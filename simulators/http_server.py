"""The HTTP server of a simulated provider: the provider's own routes, the control API and the log.

What enters: Providers and their ports. What leaves: one server for each, all in this process. They run until SIGTERM or SIGINT and then
write the rest of the log.
    GET  /_control/health    {"provider": ..., "lines": newest n of the log, "pending": notices our webhook has not accepted yet}
    GET  /_control/faults, limits    the knobs      POST the ones to change
    GET  /_control/clock     {"offset_seconds", "now"}    POST {"offset_seconds": 86400} or {"advance_seconds": 3600}
    POST /_control/schedule  phases of misbehaviour (misbehaviour_schedule.py)
    POST /_control/inbound   a person writes to us; 202 with the message's id
    POST /_control/<name>    the provider's other controls; GET /_control lists everything
    GET  /_log?after=N&limit=M    unless it is closed (--closed-log)
The control API and the log answer only when Host is an address or a name without a dot, and never a request with an Origin: DNS rebinding
could otherwise let a web page reach them. The server is aiohttp's low-level one: it has no router, and a handler continues when the
client closes the connection.
"""

import asyncio
import dataclasses
import inspect
import ipaddress
import logging
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from simulators import request_reading
from simulators.provider import UPLOAD_LIMIT, Provider, json_response


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: RequestHandler,
    writer: AbstractStreamWriter,
    task: "asyncio.Task[None]",
) -> web.BaseRequest:
    """Like aiohttp's default factory, but without its body limit of 1 MB: people send media."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=UPLOAD_LIMIT)


@asynccontextmanager
async def running(provider: Provider, host: str, port: int) -> AsyncIterator[int]:
    """Runs the provider's server and background tasks inside the block; yields the port it listens on."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith("/_"):
            return await _control(provider, request)
        return await provider.answer(request)

    logging.getLogger("aiohttp.server").addFilter(_in_one_line)
    server = web.Server(answer, request_factory=_request, access_log=None)
    runner = web.ServerRunner(server, shutdown_timeout=0.5)
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
        provider.close()


def _in_one_line(line: logging.LogRecord) -> bool:
    """Shortens the log line of an unreadable request, which was answered 400: its exception quotes the URL with the bot's token."""
    error = line.exc_info[1] if line.exc_info else None
    if isinstance(error, HttpProcessingError | web.RequestPayloadError):
        line.msg, line.args, line.exc_info = "request not readable: %s", (type(error).__name__,), None
    return True


async def serve(providers: Sequence[tuple[Provider, str, int]]) -> None:
    """Runs each provider at its host and port until SIGTERM or SIGINT.

    Prints one line for each when it listens, in the order given: after the last line, all of them listen.
    """
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with AsyncExitStack() as stack:
        for provider, host, port in providers:
            bound = await stack.enter_async_context(running(provider, host, port))
            sys.stdout.write(f"{provider.name} simulator listening on http://{host}:{bound}\n")
            sys.stdout.flush()
        await stopped.wait()


async def _control(provider: Provider, request: web.BaseRequest) -> web.Response:
    name = request.path.removeprefix("/_control").strip("/")
    if "Origin" in request.headers or not _is_near(request.headers.get("Host", "")):
        return json_response(
            {"error": "not for web pages: name this server by its address, and send no Origin"}, status=403
        )
    try:
        if request.method == "GET":
            return _get(provider, request, name)
        body = orjson.loads(await request_reading.raw(request, ValueError("the body cannot be decoded")) or b"{}")
        if name in _SHARED:
            return json_response(_SHARED[name](provider, body))
        if name in provider.controls():
            done = provider.controls()[name](_mapping(body))
            done = await done if inspect.isawaitable(done) else done
            return json_response(done, status=202 if name == "inbound" else 200)
    except ValueError as why:
        return json_response({"error": str(why)}, status=400)
    return _nothing(request)


def _is_near(host: str) -> bool:
    """Whether a Host header holds an address, or a name without a dot, which public DNS cannot resolve."""
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name != "" and "." not in name
    return True


def _get(provider: Provider, request: web.BaseRequest, name: str) -> web.Response:
    """The answer to a GET of the control API or the log."""
    if request.path == "/_log":
        return _page(provider, request) if provider.shows_log else _nothing(request)
    if not name:
        return json_response(sorted({"health", *_SHARED, *provider.controls()}))
    if name == "health":
        pending = provider.webhooks.pending
        return json_response({"provider": provider.name, "lines": provider.log.lines, "pending": pending})
    return json_response(_SHARED[name](provider, {})) if name in _SHARED else _nothing(request)


def _nothing(request: web.BaseRequest) -> web.Response:
    return json_response({"error": f"nothing here: {request.method} {request.path}"}, status=404)


def _misbehaviour(provider: Provider, wanted: Any) -> object:
    provider.schedule.misbehaviour = provider.schedule.misbehaviour.changed(_mapping(wanted))
    return dataclasses.asdict(provider.schedule.misbehaviour)


def _limits(provider: Provider, wanted: Any) -> object:
    provider.limits = provider.limits.changed(_mapping(wanted))
    return dataclasses.asdict(provider.limits)


def _clock(provider: Provider, wanted: Any) -> object:
    clock, given = provider.clock, _mapping(wanted)
    if set(given) - {"offset_seconds", "advance_seconds"} or not all(
        isinstance(each, int | float) for each in given.values()
    ):
        raise ValueError('the clock takes {"offset_seconds": S} or {"advance_seconds": S}')
    offset = given.get("offset_seconds", clock.offset_ms / 1000) + given.get("advance_seconds", 0)
    if not abs(offset) <= _FARTHEST_SECONDS:
        raise ValueError(f"the offset of the clock is at most {_FARTHEST_SECONDS} seconds in either direction")
    clock.set_offset(int(offset * 1000))
    return {"offset_seconds": clock.offset_ms / 1000, "now": clock.now()}


def _schedule(provider: Provider, wanted: Any) -> object:
    if wanted != {}:
        provider.schedule.plan(wanted)
    return {"phases": provider.schedule.phases}


_FARTHEST_SECONDS = 3_155_760_000  # 100 years
_SHARED = {"faults": _misbehaviour, "limits": _limits, "clock": _clock, "schedule": _schedule}


def _page(provider: Provider, request: web.BaseRequest) -> web.Response:
    after, limit = int(request.query.get("after", "0")), int(request.query.get("limit", "1000"))
    body = provider.log.page(after, min(max(limit, 1), 10_000))
    return web.Response(body=body, content_type="application/json")


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("send a JSON object")  # noqa: TRY004  # the control API answers every ValueError with 400
    return value
