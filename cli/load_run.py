"""One load from start to verdict against a running stack: what `chat4all load` and `chat4all demo` share.

Enters: a running stack, a load's knobs. Leaves: the Verdict, the run's id, and how long it took. Guaranteed: the verdict is taken
only from the three witnesses, after the run has become quiet or the patience has ended; ClickHouse is compared as well.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from cli.dev_stack import calls_log, kind_of
from cli.progress import RunProgress
from connectors.registry import CHANNELS
from loadgen.evidence import gather
from loadgen.load_producer import Load, LoadResult
from loadgen.run_monitor import RunMonitor
from loadgen.verdict import Verdict, judge
from loadgen.worker_killer import Kill, WorkerKiller
from pipelines.stages import WORKERS
from schemas.settings import Settings
from sinks import migrate
from sinks.clickhouse import connect
from stack.state import read_state

LAST_SIGNS = {name: str(channel.capabilities.last_sign) for name, channel in CHANNELS.items()}
LOOK_SECONDS = 0.4
QUIET_SECONDS = 1.5  # nothing new in PostgreSQL for so long after the last delivery ended: late repetitions are in


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What a load is made of; shares are 0 to 1, `rate` is messages a second (0: as fast as it goes)."""

    count: int
    rate: float
    channels: Sequence[str]
    conversations: int
    group_share: float
    groups: int
    group_size: int
    duplicates: float
    seed: int
    kill: Sequence[str] = ()
    patience_seconds: float = 90.0  # without progress, after the last message; longer than an unknown outcome is held


@dataclass(slots=True)
class RunResult:
    """What came of a run. `seconds` is from the first message produced to the last delivery ended."""

    run_id: str
    verdict: Verdict
    load: LoadResult
    seconds: float
    kills: list[Kill] = field(default_factory=list)
    in_postgres: int = 0  # delivered messages, asked of each database
    in_clickhouse: int = 0

    @property
    def ok(self) -> bool:
        return self.verdict.ok and self.in_postgres == self.in_clickhouse


def run_load(folder: Path, settings: Settings, options: LoadOptions) -> RunResult:
    """Runs the load and waits for it; raises LoadFailed when it could not be produced, Unavailable when a database lets nobody in."""
    run_id = f"r{int(time.time() * 1000):x}"
    log = folder / "load" / f"{run_id}.jsonl"
    load = Load(
        kafka=settings.kafka,
        run_id=run_id,
        seed=options.seed,
        count=options.count,
        rate=options.rate,
        log=log,
        channels=options.channels,
        conversations=options.conversations,
        group_share=options.group_share,
        groups=options.groups,
        group_size=options.group_size,
        duplicate_share=options.duplicates,
    )
    killer = WorkerKiller(
        options.kill, options.count / options.rate if options.rate else 10.0, lambda name: _pid_of(folder, name)
    )
    monitor = RunMonitor(
        postgres_url=settings.postgres_url, run_id=run_id, metrics_urls=_metrics_urls(folder), last_signs=LAST_SIGNS
    )
    migrate.check(settings.postgres_url, settings.clickhouse_url)  # before a load whose verdict would ask them in vain
    began = time.monotonic()
    try:
        with RunProgress() as progress:
            killer.start()
            result = _produced(load, monitor, progress)
            progress.deliveries = result.deliveries
            ended = _await_quiet(monitor, progress, result.deliveries, options.patience_seconds)
    finally:
        killer.stop()
        monitor.close()
    with psycopg.connect(settings.postgres_url, connect_timeout=10) as connection:
        verdict = judge(gather(log, {channel: calls_log(folder, channel) for channel in options.channels}, connection))
        in_postgres = _delivered_in_postgres(connection, run_id)
    return RunResult(
        run_id=run_id,
        verdict=verdict,
        load=result,
        seconds=ended - began,
        kills=killer.kills,
        in_postgres=in_postgres,
        in_clickhouse=_await_delivered_in_clickhouse(settings.clickhouse_url, run_id, in_postgres),
    )


def _produced(load: Load, monitor: RunMonitor, progress: RunProgress) -> LoadResult:
    """Produces in this thread; looks at the run from another one meanwhile."""
    finished = threading.Event()

    def look() -> None:
        while not finished.wait(LOOK_SECONDS):
            progress.seen(monitor.look())

    looking = threading.Thread(target=look, name="watch", daemon=True)
    looking.start()
    try:
        return load.run(progress.loaded)
    except KeyboardInterrupt:
        load.stop()
        raise
    finally:
        finished.set()
        looking.join()


def _await_quiet(monitor: RunMonitor, progress: RunProgress, deliveries: int, patience_seconds: float) -> float:
    """Waits until every delivery has ended and nothing follows, or nothing has moved for too long; returns when the last one ended."""
    sight = monitor.look()
    ended = moved = time.monotonic()
    while True:
        now = time.monotonic()
        is_complete = sight.final >= deliveries
        if now - moved >= (QUIET_SECONDS if is_complete else patience_seconds):
            return ended
        time.sleep(LOOK_SECONDS)
        before, sight = sight, monitor.look()
        progress.seen(sight)
        if sight.events != before.events:
            moved = time.monotonic()
            if sight.final != before.final:
                ended = moved


def _delivered_in_postgres(connection: psycopg.Connection[Any], run_id: str) -> int:
    row = connection.execute(
        "select count(*) from deliveries where conversation_id like %s and status in ('DELIVERED', 'READ')",
        (f"{run_id}-%",),
    ).fetchone()
    return int(row[0]) if row else 0


def _await_delivered_in_clickhouse(url: str, run_id: str, expected: int) -> int:
    """ClickHouse follows in batches, a second or two later; asks until it agrees or 20 s have passed."""
    client = connect(url)
    try:
        end = time.monotonic() + 20
        while True:
            rows = client.query(
                "SELECT count() FROM deliveries FINAL WHERE startsWith(conversation_id, {run:String}) AND status IN ('DELIVERED', 'READ')",
                parameters={"run": f"{run_id}-"},
            ).result_rows
            found = int(rows[0][0])
            if found == expected or time.monotonic() > end:
                return found
            time.sleep(0.3)
    finally:
        client.close()


def _pid_of(folder: Path, name: str) -> int | None:
    state = read_state(folder)
    return next((s.pid for s in state.services if s.name == name and s.status == "ready"), None) if state else None


def _metrics_urls(folder: Path) -> dict[str, str]:
    state = read_state(folder)
    return {s.name: s.parts["probes"] for s in state.services if kind_of(s.name) in WORKERS} if state else {}
