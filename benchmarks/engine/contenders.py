"""The contenders: how each is started, and what it needs before. Enters: a task. Leaves: its command line and environment."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.engine import environments
from benchmarks.engine.bench_topics import PARTITIONS
from benchmarks.engine.environments import Unavailable
from benchmarks.engine.task import Task
from schemas.settings import Settings

Command = Callable[[Task], list[str]]
STORE = "store"  # the setting that chooses the store of tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One contender. `command` raises Unavailable where it cannot run."""

    title: str
    command: Command
    environment: Callable[[Task], Mapping[str, str]] = lambda _: {}
    makes_changelogs: bool = False  # it creates its changelog topics itself
    slow: bool = False  # it gets fewer records
    turn_records: int = 3000


def _python(module: str) -> Command:
    return lambda task: [sys.executable, "-m", f"benchmarks.engine.{module}", *task.arguments()]


def _quix(task: Task) -> list[str]:
    return [environments.quix_python(), "-m", "benchmarks.engine.quix", *task.arguments()]


def _streams(guarantee: str) -> Command:
    return lambda task: [
        *environments.streams_command(),
        *task.arguments(),
        guarantee,
        *environments.schema_arguments(),
    ]


def _rocksdb(task: Task) -> list[str]:
    if STORE not in Settings.model_fields:
        raise Unavailable("the engine has no store on disk yet")
    return _python("ours")(task)


def engine_environment(task: Task, store: str = "") -> dict[str, str]:
    """The environment of a worker of the product."""
    found = {
        "CHAT4ALL_KAFKA_URL": task.kafka_url,
        "CHAT4ALL_PARTITIONS": str(PARTITIONS),
        "CHAT4ALL_WEB_PORT": "0",
        "CHAT4ALL_PROBE_PORT": "0",
        "CHAT4ALL_LOG_FORMAT": "json",
        "CHAT4ALL_DATA_DIR": str(task.folder),
        "CHAT4ALL_STATE": str(task.folder / "no-stack.json"),
    }
    return found | ({f"CHAT4ALL_{STORE.upper()}": store} if store else {})


CONTENDERS: dict[str, Contender] = {
    "ours": Contender(title="this engine, tables in memory", command=_python("ours"), environment=engine_environment),
    "transactional-loop": Contender(title="loop by hand, a transaction a batch", command=_python("transactional_loop")),
    "streams-exactly-once": Contender(
        title="Kafka Streams (Java), exactly_once_v2", command=_streams("exactly_once_v2"), makes_changelogs=True
    ),
    "ours-rocksdb": Contender(
        title="this engine, tables in RocksDB",
        command=_rocksdb,
        environment=lambda task: engine_environment(task, "rocksdb"),
    ),
    "loop": Contender(title="loop by hand, no guarantee", command=_python("loop")),
    "streams": Contender(
        title="Kafka Streams (Java), at least once", command=_streams("at_least_once"), makes_changelogs=True
    ),
    "quix": Contender(title="Quix Streams, at least once", command=_quix, makes_changelogs=True),
    "faust": Contender(title="Faust 0.15.3 as it is", command=_python("stock_faust"), makes_changelogs=True, slow=True),
}


def add_parent(folder: Path) -> None:
    """Adds the engine of another commit, checked out in `folder`, as a contender; the job's code is the one of this commit."""
    CONTENDERS["parent"] = replace(
        CONTENDERS["ours"],
        title="this engine at the commit before",
        # -P: the folder it starts in is not on the path
        command=lambda task: [sys.executable, "-P", "-m", "benchmarks.engine.ours", *task.arguments()],
        environment=lambda task: _parent_environment(task, folder.resolve()),
    )


def _parent_environment(task: Task, folder: Path) -> dict[str, str]:
    first = task.folder / "first"  # first on the path, with this benchmark; all other modules are from the checkout
    first.mkdir()
    (first / "benchmarks").symlink_to(Path(__file__).parent.parent)
    return engine_environment(task) | {"PYTHONPATH": os.pathsep.join([str(first.resolve()), str(folder)])}
