"""A worker of a sink on a topic of its own: `python -m tests.support.sink_worker NAME SINK [--end-after N | --end-before N]`.

SINK is archive or analyse; it reads the topic NAME-states. With --end-after the worker kills itself as soon as its N-th write is in the
database, before it takes note of it; with --end-before just before that write. Both are like a power failure at that moment.
"""

import argparse
import os
from collections.abc import Awaitable, Callable
from typing import Any

from pipelines import logs
from pipelines.analyse import STATES, Analyse
from pipelines.app import build, run
from pipelines.engine.stage import Source, Stage
from pipelines.stages import BUILDERS
from schemas.settings import Settings
from tests.support.sabotage import EXIT_CODE

TURN_RECORDS = 15  # small turns, so that there are many writes


def ending(write: Callable[..., Awaitable[None]], *, before: int, after: int) -> Callable[..., Awaitable[None]]:
    made = 0

    async def ends(*arguments: Any, **named: Any) -> None:
        nonlocal made
        made += 1
        if made == before:
            os._exit(EXIT_CODE)
        await write(*arguments, **named)
        if made == after:
            os._exit(EXIT_CODE)

    return ends


def sink_on(name: str, sink: str, settings: Settings) -> Stage[Any]:
    stage = BUILDERS[sink](settings)
    stage.name = name
    stage.sources = (Source(f"{name}-states"),)
    stage.turn_records = TURN_RECORDS
    if isinstance(stage, Analyse):
        stage.readers = {f"{name}-states": stage.readers[STATES]}
    return stage


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("sink", choices=["archive", "analyse"])
    parser.add_argument("--end-before", type=int, default=0)
    parser.add_argument("--end-after", type=int, default=0)
    given = parser.parse_args()
    settings = Settings()
    logs.configure(settings)
    stage: Any = sink_on(given.name, given.sink, settings)
    owner, method = (stage._sink, "write") if given.sink == "archive" else (stage, "_write")
    write = getattr(owner, method)
    setattr(owner, method, ending(write, before=given.end_before, after=given.end_after))
    run(build(stage, settings))


if __name__ == "__main__":
    main()
