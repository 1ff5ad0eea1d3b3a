"""One load from start to verdict against a running stack: what `chat4all load` and `chat4all demo` share.

Enters: a running stack, a load's options. Leaves: the Verdict, the run's id, and how long it took. Guaranteed: the verdict uses only
the three sources of evidence (loadgen/evidence.py), and is taken after the run has become quiet or has made no progress for
`timeout_seconds`. The number of delivered messages in ClickHouse is compared with PostgreSQL's.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from cli.cursor_view import MemberCursors, cursors_of, largest_conversation
from cli.dev_stack import calls_log, kind_of
from cli.progress import RunProgress
from connectors.registry import CHANNELS, OBSERVED
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
# A run has ended when PostgreSQL has had nothing new for so long; late duplicates have arrived by then.
QUIET_SECONDS = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """The options of a load. Shares are 0 to 1; `rate` is messages a second (0: as fast as possible)."""

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
    # Without progress, after the last message. Longer than the send stage holds a delivery whose outcome is unknown.
    timeout_seconds: float = 90.0


@dataclass(slots=True)
class RunResult:
    """The result of a run. `seconds` is from the first message produced to the end of the last delivery."""

    run_id: str
    verdict: Verdict
    load: LoadResult
    seconds: float
    kills: list[Kill] = field(default_factory=list)
    in_postgres: int = 0  # delivered messages, as each database counts them
    in_clickhouse: int = 0
    cursors: Sequence[MemberCursors] = ()  # of the run's largest conversation

    @property
    def cursors_agree(self) -> bool:
        return bool(self.cursors) and all(each.in_postgres == each.in_view for each in self.cursors)

    @property
    def ok(self) -> bool:
        return self.verdict.ok and self.in_postgres == self.in_clickhouse and self.cursors_agree


def run_load(folder: Path, settings: Settings, options: LoadOptions) -> RunResult:
    """Runs the load and waits until it has ended. Blocks for the whole run. Raises LoadFailed when the load could not be produced, and
    Unavailable when a database cannot be reached or refuses the connection."""
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
    migrate.check(settings.postgres_url, settings.clickhouse_url)  # fail before the load: the verdict needs both
    began = time.monotonic()
    try:
        with RunProgress() as progress:
            killer.start()
            result = _produced(load, monitor, progress)
            progress.deliveries = result.deliveries
            ended = _await_quiet(monitor, progress, result.deliveries, options.timeout_seconds)
    finally:
        killer.stop()
        monitor.close()
    with psycopg.connect(settings.postgres_url, connect_timeout=10) as connection:
        logs = {channel: calls_log(folder, channel) for channel in options.channels}
        verdict = judge(gather(log, logs, connection), OBSERVED)
        in_postgres = _delivered_in_postgres(connection, run_id)
        largest = largest_conversation(connection, run_id)
        cursors = _await_cursors_in_view(connection, _views_url(folder), largest) if largest else ()
    return RunResult(
        run_id=run_id,
        verdict=verdict,
        load=result,
        seconds=ended - began,
        kills=killer.kills,
        in_postgres=in_postgres,
        cursors=cursors,
        in_clickhouse=_await_delivered_in_clickhouse(settings.clickhouse_url, run_id, in_postgres),
    )


def _produced(load: Load, monitor: RunMonitor, progress: RunProgress) -> LoadResult:
    """Produces in this thread, and watches the run from another thread."""
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


def _await_quiet(monitor: RunMonitor, progress: RunProgress, deliveries: int, timeout_seconds: float) -> float:
    """Waits until every delivery has ended and nothing new has come for QUIET_SECONDS, or nothing has changed for `timeout_seconds`.
    Returns the time (time.monotonic) at which the last delivery ended."""
    status = monitor.look()
    ended = moved = time.monotonic()
    while True:
        now = time.monotonic()
        is_complete = status.final >= deliveries
        if now - moved >= (QUIET_SECONDS if is_complete else timeout_seconds):
            return ended
        time.sleep(LOOK_SECONDS)
        before, status = status, monitor.look()
        progress.seen(status)
        if status.events != before.events:
            moved = time.monotonic()
            if status.final != before.final:
                ended = moved


def _delivered_in_postgres(connection: psycopg.Connection[Any], run_id: str) -> int:
    row = connection.execute(
        "select count(*) from deliveries where conversation_id like %s and status in ('DELIVERED', 'READ')",
        (f"{run_id}-%",),
    ).fetchone()
    return int(row[0]) if row else 0


def _await_delivered_in_clickhouse(url: str, run_id: str, expected: int) -> int:
    """Asks ClickHouse, which gets its batches a second or two later, until its number is the expected one or 20 s have passed."""
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


def _await_cursors_in_view(
    connection: psycopg.Connection[Any], views_url: str, conversation_id: str
) -> Sequence[MemberCursors]:
    """Asks the view until it has what PostgreSQL has, or 20 s have passed: a worker that restores its tables answers later."""
    end = time.monotonic() + 20
    found: Sequence[MemberCursors] = ()
    while time.monotonic() < end:
        with suppress(OSError):
            found = cursors_of(connection, views_url, conversation_id)
            if all(each.in_postgres == each.in_view for each in found):
                break
        time.sleep(0.3)
    return found


def _pid_of(folder: Path, name: str) -> int | None:
    state = read_state(folder)
    return next((s.pid for s in state.services if s.name == name and s.status == "ready"), None) if state else None


def _views_url(folder: Path) -> str:
    """The web views of one core worker: any worker answers for any row."""
    state = read_state(folder)
    return next((s.parts["views"] for s in state.services if kind_of(s.name) == "core"), "") if state else ""


def _metrics_urls(folder: Path) -> dict[str, str]:
    state = read_state(folder)
    return {s.name: s.parts["probes"] for s in state.services if kind_of(s.name) in WORKERS} if state else {}
