"""A provider that answers as a case file says: real HTTP on loopback, one scripted answer for each request; it keeps every request.

An answer is {"status", "headers", "json" | "text"} or {"fault": ...}: hang (no answer), reset (cut after the body arrived), drip (an
answer that never ends), cut (less than announced), huge (more than a connector accepts).
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

from connectors.http_calls import ANSWER_LIMIT


class Script:
    """The answers still to give and the requests that arrived."""

    def __init__(self, answers: Sequence[Mapping[str, Any]]) -> None:
        self.answers = list(answers)
        self.requests: list[dict[str, Any]] = []
        self.url = ""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(
            {
                "method": request.method,
                "path": request.path_qs,
                "headers": {name.lower(): value for name, value in request.headers.items()},
                "json": orjson.loads(body) if body else None,
            }
        )
        if not self.answers:
            return web.Response(status=418, text="the script has no answer left")
        scripted = self.answers.pop(0)
        if "fault" in scripted:
            return await _break(request, str(scripted["fault"]))
        content = orjson.dumps(scripted["json"]) if "json" in scripted else str(scripted.get("text", "")).encode()
        headers = {"Content-Type": "application/json" if "json" in scripted else "text/html"}
        return web.Response(status=scripted["status"], body=content, headers=headers | scripted.get("headers", {}))


async def _break(request: web.BaseRequest, fault: str) -> web.StreamResponse:
    assert request.transport is not None
    if fault == "hang":
        while not request.transport.is_closing():  # noqa: ASYNC110  # aiohttp has no event for a disconnect
            await asyncio.sleep(0.01)
        return web.Response()
    if fault == "reset":
        request.transport.abort()
        return web.Response()
    response = web.StreamResponse(headers={"Content-Length": "10000000"} if fault == "cut" else {})
    await response.prepare(request)
    if fault == "huge":
        await response.write(b" " * (ANSWER_LIMIT + 1))
    while fault == "drip" and not request.transport.is_closing():
        await response.write(b" ")
        await asyncio.sleep(0.01)
    if fault == "cut":
        await response.write(b'{"messages"')
        request.transport.close()
    return response


@asynccontextmanager
async def scripted(answers: Sequence[Mapping[str, Any]], keep_seconds: float = 60.0) -> AsyncIterator[Script]:
    """Runs the scripted provider during the block; afterwards its port refuses connections. Idle connections close after `keep_seconds`."""
    script = Script(answers)
    runner = web.ServerRunner(
        web.Server(script.answer, access_log=None, keepalive_timeout=keep_seconds), shutdown_timeout=0.1
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    script.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield script
    finally:
        await runner.cleanup()
