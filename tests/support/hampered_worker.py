"""A worker of the toy stage that is slow or stops on request: `python -m tests.support.hampered_worker NAME [options]`.

--row-seconds S is how long a restored row takes; --wait-for PATH makes the stage wait after a commit, as for a database, while the file
exists; --hold PATH makes it take no records while the file exists; --deaf loses every batch before its turn;
--stall-seconds S is how long the value "stall" blocks the event loop.
It has two views of its own: /routed/<key>, by Faust's `table_route`, and /mapping/<key>, what Faust's table shows as a mapping.
"""

import argparse
import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faust

from pipelines import logs
from pipelines.app import build, run
from pipelines.engine.stage import Decision, Inputs
from schemas.settings import Settings
from tables.layout import JsonLayout
from tests.support.toy_stage import Count, State, Toy


@dataclass(frozen=True)
class SlowLayout(JsonLayout[Count]):
    row_seconds: float = 0.0

    def decode(self, value: bytes) -> Count:
        time.sleep(self.row_seconds)
        return super().decode(value)


class Hampered(Toy):
    def __init__(
        self, name: str, *, row_seconds: float, wait_for: Path | None, hold: Path | None, stall: float
    ) -> None:
        super().__init__(name)
        slow = SlowLayout("counts", Count, keyed_by_record=True, row_seconds=row_seconds)
        self.tables = (slow, *Toy.tables[1:])  # type: ignore[misc]  # other stages have their tables in the class
        self._wait_for = wait_for
        self._hold = hold
        self._stall = stall

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:
        if any(record.value == b"stall" for record in inputs.records):
            time.sleep(self._stall)
        return super().decide(inputs, state, now)

    async def write(self, decision: Decision) -> None:  # noqa: ARG002  # every decision waits
        while self._wait_for is not None and self._wait_for.exists():  # noqa: ASYNC110  # the test is another process
            await asyncio.sleep(0.05)

    def takes(self, topic: str, state: State) -> bool:  # noqa: ARG002  # no topic is taken
        return self._hold is None or not self._hold.exists()


def add_views(app: faust.App) -> None:
    counts = app.tables["counts"]

    @app.page("/routed/{key}")
    @app.table_route(table=counts, match_info="key")
    async def routed(view: Any, request: Any, key: str) -> Any:  # noqa: ARG001  # Faust's signature
        return view.json({"n": counts[key].n, "worker": str(app.conf.canonical_url)})

    @app.page("/mapping/{key}")
    async def mapping(view: Any, request: Any, key: str) -> Any:  # noqa: ARG001  # Faust's signature
        try:
            counts[key] = Count(0)
        except TypeError as error:
            refusal = str(error)
        items = {key: row.n for key, row in counts.items()}
        return view.json(
            {"len": len(counts), "items": items, "has": key in counts, "keys": list(counts), "refusal": refusal}
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--sources")  # as the toy worker's; there is one source here
    parser.add_argument("--row-seconds", type=float, default=0.0)
    parser.add_argument("--wait-for", type=Path)
    parser.add_argument("--hold", type=Path)
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--stall-seconds", type=float, default=0.0)
    given = parser.parse_args()
    settings = Settings()
    logs.configure(settings)
    stage = Hampered(
        given.name,
        row_seconds=given.row_seconds,
        wait_for=given.wait_for,
        hold=given.hold,
        stall=given.stall_seconds,
    )
    app = build(stage, settings)
    if given.deaf:
        app.engine.submit = lambda message: None  # noqa: ARG005  # it is lost
    add_views(app)
    run(app)


if __name__ == "__main__":
    main()
