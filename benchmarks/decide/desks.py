"""One partition of each stage of core, without Kafka: the outputs of one stage are the records of the next.

Enters: turns of records. Leaves: their outputs, and the CPU time of `decide` and of the rows it changed (encoded as for a changelog, then
committed). Turning an output into a record is the engine's work and is not timed.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.engine import stage as engine
from pipelines.engine.stage import Decision, Inputs, Output, Record, Result, Stage
from tables.stores.factory import open_partition

CALLS = 100_000  # room for calls: never a limit here


def _inputs(views: Mapping[str, Any]) -> Inputs:
    """Inputs without records. Commits up to 0.1 had no `views` and no `room` in them."""
    if "room" not in Inputs._fields:
        return Inputs([], [])
    return Inputs([], [], views=views, room=engine.Room(free=CALLS))


@dataclass(slots=True)
class Desk:
    """One partition of one stage, and its cost so far."""

    stage: Stage[Any]
    views: Mapping[str, Any] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    changelog_bytes: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    tables: Mapping[str, Any] = field(init=False)
    state: Any = field(init=False)
    _inputs: Inputs = field(init=False)
    _outputs_digest: Any = field(default_factory=hashlib.blake2b)

    def __post_init__(self) -> None:
        self.tables = {
            layout.name: open_partition("memory", layout, Path("unused"), "bench") for layout in self.stage.tables
        }
        self.state = self.stage.open(0, self.tables)
        self._inputs = _inputs(self.views)

    def turn(self, records: Sequence[Record], results: Sequence[Result], now: int) -> Decision:
        """One timed turn at `now` (Unix milliseconds). Raises AssertionError when the stage refuses a record."""
        inputs = self._inputs._replace(records=records, results=results)
        began = time.process_time()
        decision = self.stage.decide(inputs, self.state, now)
        changes = [table.changes() for table in self.tables.values()]
        for table in self.tables.values():
            table.commit()
        self.cpu_seconds += time.process_time() - began
        self.changelog_bytes += sum(len(key) + len(value or b"") for rows in changes for key, value in rows)
        self.counts.update(decision.counts)
        if decision.refusals:
            raise AssertionError(f"{self.stage.name} refused a record: {decision.refusals[0].detail}")
        for output in decision.outputs:
            self._outputs_digest.update(repr(output).encode())
        return decision

    def digest(self) -> str:
        """A digest of all its outputs, in order."""
        return str(self._outputs_digest.hexdigest()[:16])


class Wire:
    """Outputs as records, kept until each stage that reads their topic has taken them."""

    def __init__(self, stages: Sequence[Stage[Any]]) -> None:
        self._waiting: dict[str, list[Record]] = {stage.name: [] for stage in stages}
        self._readers = {stage.name: {source.topic for source in stage.sources} for stage in stages}
        self._ends: Counter[str] = Counter()

    def put(self, outputs: Iterable[Output], now: int) -> None:
        for output in outputs:
            offset = self._ends[output.topic]
            self._ends[output.topic] += 1
            record = Record(output.topic, 0, offset, now, output.key, output.value, ())
            for name, topics in self._readers.items():
                if output.topic in topics:
                    self._waiting[name].append(record)

    def take(self, stage: str) -> list[Record]:
        found, self._waiting[stage] = self._waiting[stage], []
        return found

    @property
    def is_empty(self) -> bool:
        return not any(self._waiting.values())
