"""Web views of a worker, for operators: /, /partitions/, and /exchanges/?delivery=&since=&until=&limit= (times in Unix milliseconds).

In: the engines of the process and the call log. Out: JSON, or pages. The views are read-only and show this worker only: ask the worker that
made a call for its exchange. Views of tables are in table_views.py, access rules in view_access.py; probes have their own port (probes.py).
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import faust

from connectors.call_log import CALL_LOG
from pipelines.engine.worker import Engine
from pipelines.row_masking import masked_id
from pipelines.view_access import sees_all
from pipelines.view_answer import ViewAnswer, refused, why_absent
from pipelines.view_pages import shown


def add_views(app: faust.App, engines: Sequence[Engine]) -> None:
    """Adds the views to a worker's app; they show all `engines`. Handlers run on the worker's event loop and do no I/O."""

    @app.page("/")
    async def index(view: Any, request: Any) -> Any:
        return shown(app, view, request, ViewAnswer(200, _about(app, engines)), "index.html")

    @app.page("/partitions/")
    async def partitions(view: Any, request: Any) -> Any:
        why = "" if _has_partitions(engines) else why_absent(app)
        return shown(
            app, view, request, ViewAnswer(200, _partitions(engines)), "partitions.html", context=lambda _: {"why": why}
        )

    @app.page("/exchanges/")
    async def exchanges(view: Any, request: Any) -> Any:
        try:
            found = _exchanges(request.query)
        except ValueError:
            answer = refused(400, "since, until and limit are whole numbers")
        else:
            answer = ViewAnswer(200, found if sees_all(request) else [_masked(each) for each in found])
        delivery = request.query.get("delivery", "")
        return shown(app, view, request, answer, "exchanges.html", context=lambda _: {"delivery": delivery})


def _about(app: faust.App, engines: Sequence[Engine]) -> dict[str, Any]:
    """What this worker is. `status` is what Faust's own page at this path says."""
    running = _has_partitions(engines)
    return {
        "status": "OK",
        "worker": str(app.conf.canonical_url),
        "stages": [part.name for engine in engines for part in getattr(engine.stage, "stages", (engine.stage,))],
        "partitions": sorted({number for engine in engines for number in engine.partitions}),
        "rows": sum(len(table) for e in engines for p in e.partitions.values() for table in p.tables.values()),
        "state": "running" if running else "restoring" if app.engine.restoring is not None else "no partitions",
        "why": "" if running else why_absent(app),
    }


def _has_partitions(engines: Sequence[Engine]) -> bool:
    return any(engine.partitions for engine in engines)


def _partitions(engines: Sequence[Engine]) -> list[dict[str, Any]]:
    now = time.monotonic()
    return [
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


def _exchanges(query: Mapping[str, str]) -> list[Any]:
    return CALL_LOG.newest(
        delivery_id=query.get("delivery", ""),
        since=int(query.get("since", 0)),
        until=int(query.get("until", 2**63)),
        limit=min(max(int(query.get("limit", 100)), 1), 1000),
    )


def _masked(exchange: Mapping[str, Any]) -> dict[str, Any]:
    """An exchange contains no texts and no addresses, but a provider's request id could contain a number of a person."""
    return {name: masked_id(each) if name == "request_id" and each else each for name, each in exchange.items()}
