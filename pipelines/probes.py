"""Probes of a worker on their own port: /health, /health/live, /health/ready and /metrics.

In: the engines of the process. Out: an HTTP server that runs as long as the web views. It needs no token, because answers contain no
personal data, only counts and the names of tables, topics, stages and channels.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faust
import structlog
from aiohttp import web

from pipelines.engine.worker import Engine
from pipelines.health import health_of_all, measure_disk, measure_tables
from schemas import metrics

log = structlog.get_logger(__name__)


def add_probes(app: faust.App, engines: Sequence[Engine], host: str, port: int, data: Path) -> None:
    """Starts and stops the server together with the web server of `app`. Port 0 picks a free one, which the log shows. `data` is the folder
    whose disk is measured."""
    runner = web.AppRunner(probes(engines, data), access_log=None)

    async def start(_: web.Application) -> None:
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        log.info("probes listening", host=host, port=runner.addresses[0][1])

    async def stop(_: web.Application) -> None:
        await runner.cleanup()

    app.web.web_app.on_startup.append(start)
    app.web.web_app.on_cleanup.append(stop)


def probes(engines: Sequence[Engine], data: Path) -> web.Application:
    """The application: 200 or 503 with the health of all engines, and the metrics of the process. Handlers run on the worker's event loop,
    so they answer only while the loop runs; the disk is asked in a thread."""

    async def health(request: web.Request) -> web.Response:
        asked = request.match_info.get("asked", "ready")
        found: dict[str, Any] = health_of_all(engines)
        return web.json_response(found, status=200 if found[asked] else 503)

    async def shown(_: web.Request) -> web.Response:
        for engine in engines:
            measure_tables(engine)
        await asyncio.to_thread(measure_disk, [engine.stage.name for engine in engines], data)
        return web.Response(body=metrics.exposition(), content_type="text/plain")

    app = web.Application()
    app.add_routes(
        [
            web.get("/health", health),
            web.get("/health/{asked:live|ready}", health),
            web.get("/metrics", shown),
        ]
    )
    return app
