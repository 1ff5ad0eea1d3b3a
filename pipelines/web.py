"""Web views of a worker: what an operator asks it at 3 a.m.

/health (and /health/live, /health/ready, for probes), /metrics, /partitions/, /exchanges/?delivery=&since=&until=&limit= (times in
Unix milliseconds); tables are in table_views.py. All are read-only and show this worker only: the newest calls to providers are found at
the worker that made them.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import faust

from connectors.exchange_log import EXCHANGES
from pipelines.engine.worker import Engine
from schemas import metrics

STATUSES = ("ready", "restoring", "stuck")  # the better first


def add_views(app: faust.App, engines: Sequence[Engine]) -> None:
    """Adds the views to a worker's app; they tell of all its engines."""

    _add_health_views(app, engines)

    @app.page("/metrics")
    async def shown_metrics(view: Any, request: Any) -> Any:  # noqa: ARG001  # Faust's signature
        for engine in engines:
            _measure_tables(engine)
        return view.bytes(metrics.exposition(), content_type="text/plain")

    @app.page("/partitions/")
    async def partitions(view: Any, request: Any) -> Any:  # noqa: ARG001  # Faust's signature
        now = time.monotonic()
        return view.json(
            [
                {
                    "app": engine.stage.name,
                    "partition": number,
                    "turns": partition.turns,
                    "seconds_since_progress": round(now - partition.progressed_at, 3),
                    "rows": {name: len(table) for name, table in partition.tables.items()},
                }
                for engine in engines
                for number, partition in sorted(engine.partitions.items())
            ]
        )

    @app.page("/exchanges/")
    async def exchanges(view: Any, request: Any) -> Any:
        try:
            return view.json(_exchanges(request.query))
        except ValueError:
            return view.json({"error": "since, until and limit are whole numbers"}, status=400)


def _exchanges(query: Mapping[str, str]) -> list[Any]:
    return EXCHANGES.newest(
        delivery_id=query.get("delivery", ""),
        since=int(query.get("since", 0)),
        until=int(query.get("until", 2**63)),
        limit=min(max(int(query.get("limit", 100)), 1), 1000),
    )


def _add_health_views(app: faust.App, engines: Sequence[Engine]) -> None:
    @app.page("/health")
    async def health(view: Any, request: Any) -> Any:  # noqa: ARG001  # Faust's signature
        found = health_of_all(engines)
        return view.json(found, status=200 if found["ready"] else 503)

    @app.page("/health/{asked:live|ready}")
    async def probed(view: Any, request: Any, asked: str) -> Any:  # noqa: ARG001  # Faust's signature
        found = health_of_all(engines)
        return view.json(found, status=200 if found[asked] else 503)


def health_of(engine: Engine) -> dict[str, Any]:
    """`status` is restoring (with its progress; also while the group is being assigned), ready, or stuck (lag, and no commit for the
    set time). Ready is only who takes turns. Live is whoever a restart would not help: all but the stuck, unless it is a database that
    they wait for."""
    running = engine.running()
    stuck = engine.watchdog.stuck(running)
    restoring = engine.restoring
    settled = engine.joined and restoring is None and running.keys() == engine.partitions.keys()
    status = "restoring" if not settled else "stuck" if stuck else "ready"
    return {
        "status": status,
        "live": all(running[number].waiting_for_sink for number in stuck),
        "ready": status == "ready",
        "stage": engine.stage.name,
        "partitions": sorted(engine.partitions),
        "rows": {
            layout.name: sum(len(p.tables[layout.name]) for p in engine.partitions.values())
            for layout in engine.stage.tables
        },
        "lag": sum(engine.watchdog.lag.values()),
        **({"stuck": stuck} if stuck else {}),
        **({"restoring": restoring.shown()} if restoring is not None else {}),
    }


def health_of_all(engines: Sequence[Engine]) -> dict[str, Any]:
    """A worker's health: of its only app as it is, of several the worst of each, with every app's own below `apps`."""
    if len(engines) == 1:
        return health_of(engines[0])
    apps = {engine.stage.name: health_of(engine) for engine in engines}
    return {
        "status": max((each["status"] for each in apps.values()), key=STATUSES.index),
        "live": all(each["live"] for each in apps.values()),
        "ready": all(each["ready"] for each in apps.values()),
        "rows": {name: count for each in apps.values() for name, count in each["rows"].items()},
        "lag": sum(each["lag"] for each in apps.values()),
        "apps": apps,
    }


def _measure_tables(engine: Engine) -> None:
    for name, rows in health_of(engine)["rows"].items():
        metrics.TABLE_ROWS.labels(engine.stage.name, name).set(rows)
        oldest = [at for p in engine.partitions.values() if (at := p.tables[name].oldest()) is not None]
        if oldest:
            metrics.TABLE_OLDEST_SECONDS.labels(engine.stage.name, name).set(time.time() - min(oldest) / 1000)
