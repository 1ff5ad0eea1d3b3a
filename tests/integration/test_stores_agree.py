"""The stores of a running stack agree after crashes of the sinks and of both servers; what is damaged then is named, and replayed.

Both servers run beside the stack, so that the test can kill them and start them again. With CHAT4ALL_LONG=1: 100,000 messages, and kills
until the last one is written.
"""

import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from cli.check import run_check
from cli.dev_stack import SIMULATED, compose
from cli.main import app
from loadgen.load_producer import Load, LoadResult
from schemas.settings import Settings
from sinks.check_look import CheckedRange
from sinks.clickhouse import connect
from sinks.migrate import migrate
from stack import control
from stack.servers import SERVERS
from stack.service import Child
from stack.state import read_state, state_path
from tests.support.long_runs import LONG

pytestmark = pytest.mark.timeout(7200 if LONG else 240)
MESSAGES, RATE, CONVERSATIONS = (100_000, 0.0, 2000) if LONG else (400, 250.0, 100)
SECONDS = 3600.0 if LONG else 180.0
BETWEEN_SECONDS = 15.0 if LONG else 1.0  # from one kill to the next
AWAY_SECONDS = 5.0 if LONG else 0.5


class Server:
    """A server of its own process, which can be killed and comes back at the same address with the same data."""

    def __init__(self, name: str, folder: Path) -> None:
        self._child = Child(SERVERS[name](folder))
        self._child.start()
        self.url = dict(self._child.service.settings)[f"{name}_url"]

    def wait(self) -> None:
        self._child.wait()

    def kill(self) -> None:
        """SIGKILL to all its processes; the next start does not make the data anew."""
        self._child.terminate(signal.SIGKILL)
        time.sleep(AWAY_SECONDS)
        self._child.stop()
        self._child = Child(dataclasses.replace(self._child.service, steps=self._child.service.steps[-1:]))
        self._child.start()
        self._child.wait()

    def stop(self) -> None:
        self._child.stop()


@dataclass(frozen=True, slots=True)
class Running:
    """A stack after its load, and what was killed meanwhile."""

    folder: Path
    settings: Settings
    killed: Sequence[str]

    def chat4all(self, *arguments: str, **env: str) -> Result:
        """The command, in this process: it finds the stack by its state file."""
        return CliRunner().invoke(app, arguments, env={"CHAT4ALL_STATE": str(state_path(self.folder)), **env})

    def check(self) -> tuple[int, dict[str, list[str]]]:
        """Exit code, and check -> ids of what differs."""
        done = self.chat4all("check", "--json", "--wait", str(SECONDS))
        assert done.exit_code in {0, 1}, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return done.exit_code, {
            each["name"]: [" ".join(one["key"]) for one in each["ids"]]
            for each in found["checks"]
            if each["differences"]
        }

    def postgres(self, *statements: str) -> list[tuple[Any, ...]]:
        """Runs statements in one transaction; returns the rows of the last one."""
        with psycopg.connect(self.settings.postgres_url) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def clickhouse(self, *statements: str) -> None:
        client = connect(self.settings.clickhouse_url)
        for statement in statements:
            client.command(statement, settings={"mutations_sync": 2})
        client.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A stack that got a load while its sinks and its servers were killed, and has written everything."""
    base = tmp_path_factory.mktemp("agree")
    servers = {name: Server(name, base / "servers" / name) for name in ("postgres", "clickhouse")}
    for server in servers.values():
        server.wait()
    with pytest.MonkeyPatch.context() as environment:
        for name, server in servers.items():
            environment.setenv(f"CHAT4ALL_{name.upper()}_URL", server.url)
        folder = base / "stack"
        try:
            state = control.start(folder, compose(folder), lambda _: None)
            settings = Settings.model_validate(state.settings)
            killed = _load(folder, settings, servers)
            yield Running(folder, settings, killed)
        finally:
            control.stop(folder)
            for server in servers.values():
                server.stop()


def _load(folder: Path, settings: Settings, servers: dict[str, Server]) -> list[str]:
    load = Load(
        kafka=settings.kafka,
        run_id="run",
        seed=5,
        count=MESSAGES,
        rate=RATE,
        log=folder / "load.jsonl",
        channels=tuple(SIMULATED),
        conversations=CONVERSATIONS,
        group_share=0.02,
        duplicate_share=0.05,
    )
    results, killed = list[LoadResult](), list[str]()
    loading = threading.Thread(target=lambda: results.append(load.run()))
    loading.start()
    order = ["sinks", *servers]
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and (
        not results or _ended(settings) < results[0].deliveries or len(killed) < len(order)
    ):
        time.sleep(BETWEEN_SECONDS)
        if LONG or len(killed) < len(order):
            name = order[len(killed) % len(order)]
            if name in servers:
                # in this thread: a child ends with the thread that started it
                servers[name].kill()
            else:
                _kill_sinks(folder)
            killed.append(name)
    loading.join()
    assert _ended(settings) == results[0].deliveries, "every delivery must be in PostgreSQL"
    return killed


def _kill_sinks(folder: Path) -> None:
    state = read_state(folder)
    assert state is not None
    pid = next(service.pid for service in state.services if service.name == "sinks")
    if pid:
        os.kill(pid, signal.SIGKILL)


def _ended(settings: Settings) -> int:
    """Deliveries in PostgreSQL that are no longer PENDING; 0 while it is away."""
    try:
        with psycopg.connect(settings.postgres_url, connect_timeout=5) as connection:
            row = connection.execute("select count(*) from deliveries where status <> 'PENDING'").fetchone()
    except psycopg.OperationalError:
        return 0
    return int(row[0]) if row else 0


def test_the_stores_agree_after_crashes_of_the_sinks_and_of_both_servers(running: Running) -> None:
    assert set(running.killed) >= {"sinks", "postgres", "clickhouse"}
    report = run_check(running.settings, CheckedRange(), SECONDS)
    assert [(each.name, each.shown) for each in report.results if each.total] == []
    assert report.code == 0
    numbers = {each.name: each.compared for each in report.results}
    assert int(numbers["sequences"].split()[0].replace(",", "")) == MESSAGES


@pytest.mark.parametrize(
    ("setting", "url", "named"),
    [
        # Kafka's client needs 8 seconds to give up
        *([("KAFKA", "127.0.0.1:9", "Kafka")] if LONG else []),
        ("POSTGRES", "postgresql://u:p@127.0.0.1:9/d", "PostgreSQL"),
        ("CLICKHOUSE", "http://127.0.0.1:9/d", "ClickHouse"),
    ],
)
def test_a_server_that_is_away_is_named(running: Running, setting: str, url: str, named: str) -> None:
    done = running.chat4all("check", **{f"CHAT4ALL_{setting}_URL": url})
    assert done.exit_code == 2
    assert done.stderr.startswith("cannot check: ")
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_truncated_month_and_deleted_rows_come_back_from_kafka(running: Running) -> None:
    [(gone,)] = running.postgres("select delivery_id from deliveries order by delivery_id limit 1")
    [(month,)] = running.postgres("select tableoid::regclass::text from messages limit 1")
    running.postgres(f"truncate {month}", f"delete from deliveries where delivery_id = '{gone}'")
    code, named = running.check()
    assert code == 1
    assert named["deliveries"] == named["versions"] == [f"default {gone}"]
    assert len(named["sequences"]) == len(named["orphans"]) == 20
    again = running.chat4all("replay", "--into", "postgres", "--operator", "test")
    assert again.exit_code == 0, again.stderr
    assert "changed: deliveries, message_states, messages\n" in again.stdout
    assert running.check() == (0, {})
    [recorded] = running.postgres("select operator, detail ->> 'into', ended_at is not null from operator_actions")
    assert recorded == ("test", "postgres", True)


def test_a_changed_roll_up_is_named_and_a_dropped_clickhouse_comes_back(running: Running) -> None:
    """From Kafka; then a replay of what is there changes nothing."""
    running.clickhouse("alter table deliveries_by_minute update read = read + 1 where channel = 'telegram'")
    code, named = running.check()
    assert code == 1
    assert [*named] == ["deliveries_by_minute"]
    assert all(each.startswith("default telegram ") for each in named["deliveries_by_minute"])
    refused = running.chat4all("replay", "--rollups")
    assert (refused.exit_code, "stop the sinks first" in refused.stderr) == (2, True)
    client = connect(running.settings.clickhouse_url)
    names = client.query(
        "select name from system.tables where database = currentDatabase() order by engine like '%View%' desc"
    ).result_rows
    client.close()
    running.clickhouse(*(f"drop table {name}" for (name,) in names))
    assert "run `python -m sinks.migrate`" in running.chat4all("replay", "--into", "clickhouse").stderr
    migrate(running.settings.postgres_url, running.settings.clickhouse_url)
    again = running.chat4all("replay", "--into", "clickhouse")
    assert (again.exit_code, "rebuilt from Kafka" in again.stdout) == (0, True), again.stderr
    assert running.check() == (0, {})
    twice = running.chat4all("replay", "--into", "clickhouse")
    assert "nothing changed: everything was there" in twice.stdout
