"""Web views of a worker: what an operator asks it at 3 a.m.

/partitions/, /exchanges/?delivery=&since=&until=&limit= (times in Unix milliseconds); tables are in table_views.py, who may read them in
view_access.py; /health and /metrics have a port of their own (probes.py). All are read-only and show this worker only: the newest calls to
providers are found at the worker that made them.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import faust

from connectors.call_log import CALL_LOG
from pipelines.engine.worker import Engine
from pipelines.row_masking import masked_id
from pipelines.view_access import sees_all


def add_views(app: faust.App, engines: Sequence[Engine]) -> None:
    """Adds the views to a worker's app; they tell of all its engines."""

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
            found = _exchanges(request.query)
        except ValueError:
            return view.json({"error": "since, until and limit are whole numbers"}, status=400)
        return view.json(found if sees_all(request) else [_masked(each) for each in found])


def _exchanges(query: Mapping[str, str]) -> list[Any]:
    return CALL_LOG.newest(
        delivery_id=query.get("delivery", ""),
        since=int(query.get("since", 0)),
        until=int(query.get("until", 2**63)),
        limit=min(max(int(query.get("limit", 100)), 1), 1000),
    )


def _masked(exchange: Mapping[str, Any]) -> dict[str, Any]:
    """An exchange holds neither texts nor addresses; what a provider makes of its own ids and codes is not ours to know."""
    return {name: masked_id(each) if name == "request_id" and each else each for name, each in exchange.items()}
