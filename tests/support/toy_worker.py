"""A worker of the toy stage: `python -m tests.support.toy_worker NAME [--sources in,more] [--turn-records N] [--sabotage KIND]`.

Settings come from the environment, as for any worker. It has two more views: /inside/, what the tables hold, as digests, how many
batches were in flight at most, and how many knots are alive; /tasks/, where every task and thread is, to examine a worker that makes no
progress. With --sabotage something goes wrong inside (tests/support/sabotage.py).
"""

import argparse
import asyncio
import os
import sys
import threading
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import faust

from pipelines import logs
from pipelines.app import build, run
from pipelines.engine.faust import transport
from pipelines.engine.topic_identity import UnusableTopics
from schemas.settings import Settings
from tests.support import sabotage
from tests.support.digests import digest
from tests.support.toy_stage import Knot, Toy


class Highest(Counter[tuple[str, int]]):
    """Remembers the highest count of each key: a test that looks from outside sees only some moments."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, int] = {}

    def __setitem__(self, key: tuple[str, int], count: int) -> None:
        super().__setitem__(key, count)
        name = f"{key[0]}-{key[1]}"
        self.of[name] = max(count, self.of.get(name, 0))


def add_inside_views(app: faust.App) -> None:
    @app.page("/inside/")  # type: ignore[untyped-decorator]  # Faust is untyped to us
    async def inside(view: Any, request: Any) -> Any:  # noqa: ARG001  # Faust's signature
        engine = app.engine
        tables = {
            layout.name: {
                str(number): digest((key, layout.encode(row)) for key, row in partition.tables[layout.name].items())
                for number, partition in engine.partitions.items()
            }
            for layout in engine.stage.tables
        }
        return view.json({"tables": tables, "most_in_flight": engine.consumer.in_flight.of, "knots": len(Knot.alive)})

    @app.page("/tasks/")  # type: ignore[untyped-decorator]  # Faust is untyped to us
    async def tasks(view: Any, request: Any) -> Any:  # noqa: ARG001  # Faust's signature
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        stacks = {f"task {id(task)} {task.get_name()}": _stack(task) for task in asyncio.all_tasks()}
        for number, frame in sys._current_frames().items():
            calls = traceback.extract_stack(frame)
            stacks[f"thread {names.get(number)}"] = [f"{Path(c.filename).name}:{c.lineno} {c.name}" for c in calls]
        return view.json(stacks)


def _stack(task: asyncio.Task[Any]) -> list[str]:
    """Where the task is: every coroutine from the outermost to the one that waits."""
    lines: list[str] = []
    inner: Any = task.get_coro()
    while inner is not None:
        frame = getattr(inner, "cr_frame", None) or getattr(inner, "gi_frame", None)
        if frame is None:
            lines.append(repr(inner))
            break
        lines.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_qualname}")
        inner = getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None)
    return lines


def main() -> None:
    setattr(transport, "Counter", Highest)  # noqa: B010  # mypy takes a class for no value
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--sources", default="in")
    parser.add_argument("--turn-records", type=int, default=500)
    parser.add_argument("--sabotage", choices=sorted(sabotage.KINDS))
    given = parser.parse_args()
    settings = Settings()
    logs.configure(settings)
    app = build(Toy(given.name, tuple(given.sources.split(",")), turn_records=given.turn_records), settings)
    add_inside_views(app)
    if given.sabotage:
        sabotage.KINDS[given.sabotage]()
    print(f"pid {os.getpid()}", flush=True)
    try:
        run(app)
    except UnusableTopics as error:
        print(f"worker: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
