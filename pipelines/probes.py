"""What a machine asks a worker, on a port of its own: /health, /health/live, /health/ready and /metrics.

Enters: the engines of the process. Leaves: an HTTP server that lives as long as the web views. It needs no token: there is nothing of a
person in it, and nothing of a deployment but the names of tables, topics, stages and channels.
"""

from collections.abc import Sequence
from typing import Any

import faust
import structlog
from aiohttp import web

from pipelines.engine.worker import Engine
from pipelines.health import health_of_all, measure_tables
from schemas import metrics

log = structlog.get_logger(__name__)


def add_probes(app: faust.App, engines: Sequence[Engine], host: str, port: int) -> None:
    """The server starts and ends with the app's own; port 0 picks a free one, which the log tells."""
    runner = web.AppRunner(probes(engines), access_log=None)

    async def start(_: web.Application) -> None:
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        log.info("probes listen", host=host, port=runner.addresses[0][1])

    async def stop(_: web.Application) -> None:
        await runner.cleanup()

    app.web.web_app.on_startup.append(start)
    app.web.web_app.on_cleanup.append(stop)


def probes(engines: Sequence[Engine]) -> web.Application:
    """What the server answers: 200 or 503 with the health of all engines, and the metrics of the process."""

    async def health(request: web.Request) -> web.Response:
        asked = request.match_info.get("asked", "ready")
        found: dict[str, Any] = health_of_all(engines)
        return web.json_response(found, status=200 if found[asked] else 503)

    async def shown(_: web.Request) -> web.Response:
        for engine in engines:
            measure_tables(engine)
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
