"""Contender: this product's engine, as it runs in production: a stage inside Faust's worker, one process.

With the word `expiring` after the task's arguments, rows of `seen` expire as the product's do, to measure a row in memory and on disk.
"""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faust

from benchmarks.engine import job
from benchmarks.engine.task import Task, given
from pipelines import logs
from pipelines.app import build
from pipelines.engine.stage import Decision, Inputs, Output, Source, Stage, Tables
from schemas.settings import Settings
from tables.layout import Layout
from tables.table import Table


@dataclass(frozen=True, slots=True)
class Number:
    """The layout of rows that are one number, written in decimal: the same bytes as those of every other contender."""

    name: str
    packed: bool = False
    bucketed: bool = False
    expiring: bool = False
    version: int = 1
    keyed_by_record: bool = False

    @property
    def time_of(self) -> Callable[[int], int | None] | None:
        return _itself if self.expiring else None

    def encode(self, row: int) -> bytes:
        return b"%d" % row

    def decode(self, value: bytes) -> int:
        return int(value)

    def as_json(self, row: int) -> Any:
        return row


def _itself(row: int) -> int:
    return row


@dataclass(slots=True)
class State:
    partition: int
    seen: Table[int]
    sequences: Table[int]


class Sequencing(Stage[State]):
    """The job as a stage. The names of its group and its changelogs begin with `chat4all-<name>`."""

    def __init__(self, task: Task, *, expiring: bool = False) -> None:
        self.tables: tuple[Layout[Any], ...] = (Number("seen", packed=True, expiring=expiring), Number("sequences"))  # type: ignore[misc]  # a class variable in other stages
        self.name = task.group.removeprefix("chat4all-")
        self.sources = (Source(task.source),)
        self.turn_records = task.turn_records
        self._out = task.out

    def open(self, partition: int, tables: Tables) -> State:
        return State(partition, tables["seen"], tables["sequences"])

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:
        decision = Decision()
        seen, sequences, partition, out = state.seen, state.sequences, state.partition, self._out
        outputs = decision.outputs
        for record in inputs.records:
            message = job.decode(record.value or b"")
            message_id = message["message_id"].encode()
            if message_id in seen:
                continue
            seen.put(message_id, now)
            key = record.key or b""
            sequence = (sequences.get(key) or 0) + 1
            sequences.put(key, sequence)
            outputs.append(Output(out, key, job.encode(message, sequence, partition, now), partition))
        return decision


def main() -> None:
    settings = Settings()
    logs.configure(settings)
    app = build(Sequencing(given(), expiring=sys.argv[8:] == ["expiring"]), settings)
    sys.argv[1:] = []  # Faust reads it too
    worker = faust.Worker(app, loglevel=logging.WARNING, quiet=True, redirect_stdouts=False, override_logging=False)
    worker.execute_from_commandline()


if __name__ == "__main__":
    main()
