"""Web views of a worker: what an operator asks it at 3 a.m.

/health, /metrics, /partitions/, /tables/, /tables/<table>/<key>, /exchanges/?delivery=&since=&until=&limit= (times in Unix
milliseconds). All are read-only and show this worker only: a row is found at the worker that owns its partition, and the newest calls to
providers at the worker that made them.
"""

import time
from collections.abc import Mapping
from typing import Any

import faust

from connectors.exchange_log import EXCHANGES
from pipelines.engine.worker import Engine
from schemas import metrics


def add_views(app: faust.App) -> None:
    """Adds the views to a stage's app."""

    @app.page("/health")
    async def health(view: Any, request: Any) -> Any:  # noqa: ARG001  # Faust's signature
        found = health_of(app.engine)
        return view.json(found, status=200 if found["status"] == "ready" else 503)

    @app.page("/metrics")
    async def shown_metrics(view: Any, request: Any) -> Any:  # noqa: ARG001  # Faust's signature
        _measure_tables(app.engine)
        return view.bytes(metrics.exposition(), content_type="text/plain")

    @app.page("/partitions/")
    async def partitions(view: Any, request: Any) -> Any:  # noqa: ARG001  # Faust's signature
        now = time.monotonic()
        return view.json(
            [
                {
                    "partition": number,
                    "turns": partition.turns,
                    "seconds_since_commit": round(now - partition.committed_at, 3),
                    "rows": {name: len(table) for name, table in partition.tables.items()},
                }
                for number, partition in sorted(app.engine.partitions.items())
            ]
        )

    @app.page("/tables/")
    async def tables(view: Any, request: Any) -> Any:  # noqa: ARG001  # Faust's signature
        return view.json(
            [
                {
                    "table": table.name,
                    "changelog": app.engine.changelog(table.name),
                    "rows": {str(number): len(held) for number, held in table.partitions_held().items()},
                }
                for table in app.tables.values()
            ]
        )

    @app.page("/tables/{table}/{key:.+}")
    async def row(view: Any, request: Any, table: str, key: str) -> Any:  # noqa: ARG001  # Faust's signature
        if table not in app.tables:
            return view.json({"error": f"no table {table!r} here: this worker has {sorted(app.tables)}"}, status=404)
        for number, held in app.tables[table].partitions_held().items():
            found = held.get(key.encode())
            if found is not None:
                return view.json({"table": table, "key": key, "partition": number, "row": held.layout.as_json(found)})
        return view.json({"error": f"no row {key!r} in the partitions of this worker: ask the others too"}, status=404)

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


def health_of(engine: Engine) -> dict[str, Any]:
    """`status` is ready, restoring (with its progress) or stuck (lag, and no commit for the set time), with what this worker owns."""
    stuck = engine.watchdog.stuck(engine.running())
    restoring = engine.restoring
    status = "restoring" if restoring is not None or not engine.joined else "stuck" if stuck else "ready"
    return {
        "status": status,
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


def _measure_tables(engine: Engine) -> None:
    for name, rows in health_of(engine)["rows"].items():
        metrics.TABLE_ROWS.labels(engine.stage.name, name).set(rows)
        oldest = [at for p in engine.partitions.values() if (at := p.tables[name].oldest()) is not None]
        if oldest:
            metrics.TABLE_OLDEST_SECONDS.labels(engine.stage.name, name).set(time.time() - min(oldest) / 1000)
