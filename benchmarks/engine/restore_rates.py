"""How fast a table is restored from its changelog, by our engine and by Faust, and the size of a row in memory and on disk.

Both read the same kind of changelog; Faust gets fewer rows, because it would take minutes. The workers take the time themselves, from the
assignment of their partitions until the table is complete; ours includes fencing the former owner.
"""

import json
import random
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.engine.bench_topics import PARTITIONS, Topics
from benchmarks.engine.contenders import CONTENDERS
from benchmarks.engine.engine_rates import TABLES
from benchmarks.engine.job import STARTED_AT
from benchmarks.engine.machine import Process
from benchmarks.engine.task import Task

LIMIT_SECONDS = 300.0
RECOVERED = re.compile(r"recovered (\d+) rows in ([0-9.]+) s")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of one restore."""

    rows: int
    seconds: float
    memory_bytes: int  # resident, of the whole process
    disk_bytes: int


def prepare(rows: int, topics: Topics) -> str:
    """Creates the changelogs of a group and fills that of `seen`; returns the group."""
    group = f"chat4all-bench-restore-{rows}"
    topics.create(*(f"{group}-{table}-changelog" for table in TABLES), compact=True)
    topics.create(f"{group}-in", f"{group}-out")
    topics.set_at_start(group, f"{group}-in")
    topics.fill(f"{group}-seen-changelog", _rows(rows))
    return group


def _rows(count: int) -> Iterator[tuple[bytes, bytes]]:
    """Changelog rows of `seen` with ids as the product has them: a tenant and a UUID; 10,000,000 rows are a week."""
    chance = random.Random(7)  # noqa: S311  # made-up data, the same in every run
    for number in range(count):
        message_id = uuid.UUID(int=chance.getrandbits(128), version=4)
        yield f"default/{message_id}".encode(), b"%d" % (STARTED_AT + 60 * number)


def restore(name: str, group: str, topics: Topics, folder: Path) -> Restored:
    """Restores the whole table with one worker of the product. Raises Unavailable, or RuntimeError after LIMIT_SECONDS."""
    return _started(name, group, topics, folder, _ours)


def restore_faust(group: str, topics: Topics, folder: Path) -> Restored:
    """The same for Faust's own recovery."""
    return _started("faust", group, topics, folder, _faust)


def _started(
    name: str, group: str, topics: Topics, folder: Path, found: Callable[[str], tuple[int, float] | None]
) -> Restored:
    contender = CONTENDERS[name]
    place = folder / f"{group}-{name}"
    place.mkdir(parents=True)
    task = Task(topics.kafka_url, f"{group}-in", f"{group}-out", group, PARTITIONS, place)
    process = Process([*contender.command(task), "expiring"], contender.environment(task), place / "output.log")
    try:
        rows, seconds = _awaited(process, lambda: found(process.output()))
        memory = process.resident_bytes()
        process.stop()
        return Restored(rows, seconds, memory, _size(place))
    finally:
        process.stop()
        shutil.rmtree(place)


def _awaited(process: Process, answer: Callable[[], T | None]) -> T:
    end = time.monotonic() + LIMIT_SECONDS
    while (found := answer()) is None:
        if process.ended or time.monotonic() > end:
            raise RuntimeError(f"nothing restored; the log ends: {process.output()[-600:]}")
        time.sleep(0.1)
    return found


def _ours(output: str) -> tuple[int, float] | None:
    """Rows and seconds from the engine's log line of a takeover."""
    for line in output.splitlines():
        if "partitions taken over" in line:
            logged = json.loads(line)
            return logged["rows"], logged["seconds"]
    return None


def _faust(output: str) -> tuple[int, float] | None:
    found = RECOVERED.search(output)
    return (int(found[1]), float(found[2])) if found else None


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "output.log")
