"""The health of a worker: restoring, ready or stuck.

In: the engines of the process. Out: plain data, for probes and people. No I/O, except for the free bytes of a disk.
"""

import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.engine.worker import Engine
from schemas import metrics

STATUSES = ("ready", "restoring", "stuck")  # best first


def health_of(engine: Engine) -> dict[str, Any]:
    """`status` is restoring (with its progress; also during an assignment), ready (all partitions take turns), or stuck (lag, and no
    commit for the set time). `live` is false only if a restart could help: a partition is stuck and does not wait for a database."""
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
    """The health of a worker: that of its only app, or the worst of its apps, with each app's own health below `apps`."""
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
    """Sets the metrics of the tables; call it before the metrics are read."""
    rows = health_of(engine)["rows"]
    for layout in engine.stage.tables:
        labels = (engine.stage.name, layout.name)
        metrics.TABLE_ROWS.labels(*labels).set(rows[layout.name])
        if layout.time_of is None:
            continue
        oldest = [at for p in engine.partitions.values() if (at := p.tables[layout.name].oldest()) is not None]
        # 0 without a row: else the last age would stay, of a row that is gone or of a partition that another worker has now
        metrics.TABLE_OLDEST_SECONDS.labels(*labels).set(time.time() - min(oldest) / 1000 if oldest else 0)


def measure_disk(stages: Sequence[str], folder: Path) -> None:
    """Sets the free bytes of the disk that holds the folder, or will hold it. Blocks for a system call; call it from a thread. A disk that
    cannot be asked keeps the figure it had."""
    with contextlib.suppress(OSError):
        existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
        free = shutil.disk_usage(existing).free
        for stage in stages:
            metrics.DATA_FREE.labels(stage).set(free)
