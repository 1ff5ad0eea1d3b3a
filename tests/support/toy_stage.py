"""A small stage for tests of the engine: it counts, drops duplicates, makes calls, and uses timers.

Enters: <name>-<source>, co-partitioned. Leaves: <name>-out, in the record's own partition: "<n>:<value>", where n counts the key's records
from 1; a repeated value is dropped. A value "call:..." goes through a call that takes 5 ms, "later:..." through a timer of 50 ms; a value
"poison" makes the decision raise, "slow:..." makes it take 2 ms longer, "exit" ends the process in the middle of it, "endless" never ends,
"large:<n>" makes the output n bytes larger, "knot:..." leaves an object that refers to itself. Records without a value are ignored.
"""

import asyncio
import os
import time
import weakref
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pipelines.engine.stage import Call, Decision, Inputs, Output, Source, Stage, Tables
from tables.layout import JsonLayout, Layout
from tables.timers import Timers

TIMER_MS = 50
EXIT_CODE = 87  # of a worker that got the value "exit"


class Knot:
    """Refers to itself, so that only Python's garbage collector frees it."""

    alive: ClassVar["weakref.WeakSet[Knot]"] = weakref.WeakSet()

    def __init__(self) -> None:
        self.itself = self
        self.alive.add(self)


@dataclass(frozen=True, slots=True)
class Count:
    n: int


@dataclass(frozen=True, slots=True)
class Open:
    """A value that waits for its call or its timer: the intent that must survive a crash."""

    key: str
    due: int  # Unix milliseconds; 0 for a call


@dataclass(slots=True)
class State:
    partition: int
    tables: Tables
    timers: Timers = field(default_factory=Timers)
    to_call: list[str] = field(default_factory=list)


class Toy(Stage[State]):
    tables: ClassVar[tuple[Layout[Any], ...]] = (
        JsonLayout("counts", Count, keyed_by_record=True),
        JsonLayout("values", Count),
        JsonLayout("open", Open),
    )

    def __init__(self, name: str, sources: tuple[str, ...] = ("in",), *, turn_records: int = 500) -> None:
        self.name = name
        self.sources = tuple(Source(f"{name}-{source}") for source in sources)
        self.turn_records = turn_records
        self._calling: set[str] = set()

    def open(self, partition: int, tables: Tables) -> State:
        state = State(partition, tables)
        for value, row in tables["open"].items():
            if row.due:
                state.timers.set(value.decode(), row.due)
            elif value.decode() not in self._calling:
                state.to_call.append(value.decode())  # a call without a result is made again
        return state

    def next_due(self, state: State) -> int | None:
        return 0 if state.to_call else state.timers.next_due()

    async def perform(self, call: Call) -> str:
        self._calling.add(call.key)
        try:
            await self.answer(call)
        finally:  # also when the partition is given up meanwhile: it may come back to this worker
            self._calling.discard(call.key)
        return call.key

    async def answer(self, call: Call) -> None:  # noqa: ARG002  # a model of the world decides by it
        await asyncio.sleep(0.005)

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:
        decision = Decision()
        for record in inputs.records:
            self._take((record.key or b"").decode(), record.value or b"", state, decision, now)
        for done in [result.value for result in inputs.results] + state.timers.take_due(now):
            row = state.tables["open"].get(done.encode())
            if row is not None:
                state.tables["open"].delete(done.encode())
                self._emit(row.key, done.encode(), state, decision)
        if not inputs.closing:
            decision.calls += [Call(value, None) for value in state.to_call]
            state.to_call.clear()
        return decision

    def _take(self, key: str, value: bytes, state: State, decision: Decision, now: int) -> None:
        if value == b"poison":
            raise ValueError("the toy stage was given poison")
        if value == b"exit":
            os._exit(EXIT_CODE)
        while value == b"endless":
            time.sleep(0.01)
        if not value:
            return
        if value in state.tables["values"]:
            decision.count("duplicate")
            return
        state.tables["values"].put(value, Count(1))
        if value.startswith(b"call:"):
            state.tables["open"].put(value, Open(key, 0))
            state.to_call.append(value.decode())
        elif value.startswith(b"later:"):
            state.tables["open"].put(value, Open(key, now + TIMER_MS))
            state.timers.set(value.decode(), now + TIMER_MS)
        else:
            if value.startswith(b"slow:"):
                time.sleep(0.002)
            elif value.startswith(b"knot:"):
                Knot()
            self._emit(key, value, state, decision)

    def _emit(self, key: str, value: bytes, state: State, decision: Decision) -> None:
        counts = state.tables["counts"]
        before = counts.get(key.encode())
        n = 1 if before is None else before.n + 1
        counts.put(key.encode(), Count(n))
        if value.startswith(b"large:"):
            value += b" " * int(value.removeprefix(b"large:").partition(b"-")[0])
        decision.outputs.append(Output(f"{self.name}-out", key.encode(), b"%d:" % n + value, state.partition))
