"""A worker of a small stage, for tests of the engine: `python -m tests.toy_worker NAME` (settings from the environment).

In: <name>-in. Out: <name>-out, to the record's own partition: "<n>:<value>", n counting the key's records from 1; a value seen before
is dropped. A value "poison" makes the decision raise; "call:..." goes through a call that takes 5 ms; "later:..." through a timer.
"""

import asyncio
import logging
import os
import sys
from dataclasses import dataclass, field
from typing import Any, ClassVar

import faust

from pipelines import logs
from pipelines.app import build
from pipelines.engine.stage import Call, Decision, Inputs, Output, Source, Stage, Tables
from schemas.settings import Settings
from tables.agenda import Agenda
from tables.layout import JsonLayout, Layout


@dataclass(frozen=True, slots=True)
class Count:
    n: int


@dataclass(frozen=True, slots=True)
class Open:
    """A value that waits for its call or its time."""

    key: str
    due: int


@dataclass(slots=True)
class State:
    partition: int
    tables: Tables
    agenda: Agenda = field(default_factory=Agenda)
    to_call: list[str] = field(default_factory=list)


class Toy(Stage[State]):
    tables: ClassVar[tuple[Layout[Any], ...]] = (
        JsonLayout("counts", Count),
        JsonLayout("values", Count),
        JsonLayout("open", Open),
    )
    turn_records = 500

    def __init__(self, name: str) -> None:
        self.name = name
        self.sources = (Source(f"{name}-in"),)
        self._calling: set[str] = set()

    def open(self, partition: int, tables: Tables) -> State:
        state = State(partition, tables)
        for value, row in tables["open"].items():
            if row.due:
                state.agenda.set(value.decode(), row.due)
            elif value.decode() not in self._calling:
                state.to_call.append(value.decode())  # a call without a result: made again
        return state

    def next_due(self, state: State) -> int | None:
        return 0 if state.to_call else state.agenda.next_due()

    async def perform(self, call: Call) -> str:
        self._calling.add(call.key)
        await asyncio.sleep(0.005)
        self._calling.discard(call.key)
        return call.key

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:
        decision = Decision()
        values = state.tables["values"]
        for record in inputs.records:
            value = record.value or b""
            if value == b"poison":
                raise ValueError("the toy stage was given poison")
            if value in values:
                decision.count("duplicate")
                continue
            values.put(value, Count(1))
            key = (record.key or b"").decode()
            if value.startswith(b"call:"):
                state.tables["open"].put(value, Open(key, 0))
                state.to_call.append(value.decode())
            elif value.startswith(b"later:"):
                state.tables["open"].put(value, Open(key, now + 50))
                state.agenda.set(value.decode(), now + 50)
            else:
                self._emit(key, value, state, decision)
        for done in [result.value for result in inputs.results] + state.agenda.take_due(now):
            row = state.tables["open"].get(done.encode())
            if row is not None:
                state.tables["open"].delete(done.encode())
                self._emit(row.key, done.encode(), state, decision)
        if not inputs.closing:
            decision.calls += [Call(value, None) for value in state.to_call]
            state.to_call.clear()
        return decision

    def _emit(self, key: str, value: bytes, state: State, decision: Decision) -> None:
        counts = state.tables["counts"]
        before = counts.get(key.encode())
        n = 1 if before is None else before.n + 1
        counts.put(key.encode(), Count(n))
        decision.outputs.append(Output(f"{self.name}-out", key.encode(), b"%d:" % n + value, state.partition))


def main() -> None:
    settings = Settings()
    logs.configure(settings)
    app = build(Toy(sys.argv[1]), settings)
    print(f"pid {os.getpid()}", flush=True)
    faust.Worker(
        app, loglevel=logging.WARNING, quiet=True, redirect_stdouts=False, override_logging=False
    ).execute_from_commandline()


if __name__ == "__main__":
    main()
