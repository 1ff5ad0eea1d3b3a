"""What a worker says of its health: restoring, ready or stuck.

Enters: the engines of the process. Leaves: plain data, for probes and for people.
"""

import time
from collections.abc import Sequence
from typing import Any

from pipelines.engine.worker import Engine
from schemas import metrics

STATUSES = ("ready", "restoring", "stuck")  # the better first


def health_of(engine: Engine) -> dict[str, Any]:
    """`status` is restoring (with its progress; also while the group is being assigned), ready, or stuck (lag, and no commit for the
    set time). Ready is only who takes turns. Live is whoever a restart would not help: all but the stuck, unless it is a database that
    they wait for."""
    running = engine.running()
    stuck = engine.watchdog.stuck(running)
    restoring = engine.restoring
    assigned = engine.joined and restoring is None and running.keys() == engine.partitions.keys()
    status = "restoring" if not assigned else "stuck" if stuck else "ready"
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


def measure_tables(engine: Engine) -> None:
    """Sets the metrics of the tables; to be called before they are shown."""
    for name, rows in health_of(engine)["rows"].items():
        metrics.TABLE_ROWS.labels(engine.stage.name, name).set(rows)
        oldest = [at for p in engine.partitions.values() if (at := p.tables[name].oldest()) is not None]
        if oldest:
            metrics.TABLE_OLDEST_SECONDS.labels(engine.stage.name, name).set(time.time() - min(oldest) / 1000)
