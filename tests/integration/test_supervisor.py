"""A whole stack under its supervisor: a real Valkey, small programs in place of the workers, and the commands that show and stop it."""

import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import redis

from schemas.settings import Settings
from stack import control
from stack.control import StackRefused
from stack.plan import Command, Process, StackPlan
from stack.ports import free_port
from stack.servers import SERVERS
from stack.state import DEAD, FAILED, READY, ServiceState, StackState, is_running, read_state, state_path

# Serves its environment; any request for /end makes it end by itself.
PROGRAM = """
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == '/end': os._exit(7)
        self.send_response(200); self.end_headers(); self.wfile.write(json.dumps(dict(os.environ)).encode())
print('listening', flush=True)
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
"""


def program(name: str, *, restarts: bool) -> Process:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [sys.executable, "-c", PROGRAM, str(port)]
    return Process(name=name, argv=argv, env={"MY_NAME": name}, health=f"{url}/health", url=url, restarts=restarts)


def small_plan(*, keep_data: bool = False, prepare: str = "print('prepared')") -> StackPlan:
    return StackPlan(
        servers=["valkey"],
        replaced={"kafka": "broker:9092"},
        settings={"partitions": 4, "telegram_token": "1:secret", "kafka_url": "broker:9092"},
        prepare=[Command(name="prepare", argv=[sys.executable, "-c", prepare])],
        processes=[program("simulator", restarts=False), program("stage", restarts=True)],
        keep_data=keep_data,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of the stack `dev` in an empty working directory. What still runs there at the end is stopped."""
    folder = tmp_path / ".chat4all" / "dev"
    yield folder
    control.stop(folder)


def chat4all(folder: Path, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Runs the command in that working directory."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CHAT4ALL_")}
    command = [sys.executable, "-m", "cli.main", *arguments]
    cwd = folder.parent.parent
    return subprocess.run(
        command, cwd=cwd, env=inherited | env, capture_output=True, text=True, check=False, timeout=120
    )


def row(folder: Path, name: str) -> ServiceState:
    state = read_state(folder)
    assert state is not None
    return next(service for service in state.services if service.name == name)


def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def end_by_itself(process: ServiceState) -> None:
    with pytest.raises(OSError):  # noqa: PT011  # the program ends instead of answering; the exact socket error varies
        urllib.request.urlopen(f"{process.url}/end", timeout=5)


def test_a_stack_comes_up_is_described_and_goes_down(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[StackState] = []
    state = control.start(folder, small_plan(), seen.append)
    assert [service.name for service in state.services] == ["kafka", "valkey", "simulator", "stage"]
    assert [service.status for service in state.services] == ["external", READY, READY, READY]
    assert seen[0].phase == "starting"
    assert stat.S_IMODE(state_path(folder).stat().st_mode) == 0o600  # it holds the secrets
    # The product's settings find the servers and the secrets through the state file; so do the children.
    monkeypatch.setenv("CHAT4ALL_STATE", str(state_path(folder)))
    settings = Settings()
    assert (settings.kafka_url, settings.partitions) == ("broker:9092", 4)
    assert settings.telegram_token.get_secret_value() == "1:secret"
    with redis.Redis.from_url(settings.valkey_url) as client:
        assert client.ping()
    with urllib.request.urlopen(row(folder, "stage").url) as response:
        environment = json.loads(response.read())
    assert environment["MY_NAME"] == "stage"
    assert environment["CHAT4ALL_STATE"] == str(state_path(folder))
    assert environment["TMPDIR"].startswith(str(folder))
    pids = [state.pid, *(service.pid for service in state.services if service.pid)]
    assert control.stop(folder)
    assert not folder.exists()
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
    assert not control.stop(folder)  # nothing left to end


def test_a_second_start_is_refused_and_another_name_is_not(folder: Path) -> None:
    first = control.start(folder, small_plan())
    with pytest.raises(
        StackRefused, match=rf"already up \(pid {first.pid}\): .*valkey redis://default:\*\*\*@127.0.0.1:\d+/0"
    ):
        control.start(folder, small_plan())
    other = folder.with_name("two")
    second = control.start(other, small_plan())
    assert {service.url for service in first.services} & {service.url for service in second.services} == {"broker:9092"}
    assert control.stop(other)
    assert is_running(folder)
    again = chat4all(folder, "up")
    assert again.returncode == 2
    assert f"already up (pid {first.pid})" in again.stderr
    assert len(again.stderr.splitlines()) == 1


def test_a_stage_that_ends_is_started_again_and_a_simulator_is_not(folder: Path) -> None:
    control.start(folder, small_plan())
    for restarts in (1, 2):
        before = row(folder, "stage")
        end_by_itself(before)
        eventually(lambda n=restarts: row(folder, "stage").restarts == n and row(folder, "stage").status == READY)  # type: ignore[misc]  # mypy cannot type a default in a lambda
        assert row(folder, "stage").pid != before.pid
    end_by_itself(row(folder, "simulator"))
    eventually(lambda: row(folder, "simulator").status == DEAD)
    log = (folder / "supervisor.log").read_text()
    assert "STAGE DIED with 7; restarting it; log " in log
    assert "SIMULATOR DIED with 7; IT STAYS DEAD" in log
    shown = chat4all(folder, "status")
    assert shown.returncode == 1  # something is dead
    assert [line.split()[1] for line in shown.stdout.splitlines()[1:]] == ["external", READY, DEAD, READY]
    assert shown.stdout.splitlines()[4].split()[-1] == "2"


def test_a_forked_program_begins_when_servers_are_prepared_and_again_when_it_has_ended(folder: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    early = Process(
        name="early",
        argv=[sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        preload=["http.server", "socketserver"],
        health=f"{url}/",
        url=url,
        parts={"here": url, "there": f"{url}/there"},
        restarts=True,
    )
    look = f"""
import socket, time
time.sleep(1.5)  # it would have begun long ago
assert socket.socket().connect_ex(("127.0.0.1", {port})) != 0, "it has begun"
"""
    control.start(folder, StackPlan(servers=["valkey"], prepare=small_plan(prepare=look).prepare, processes=[early]))
    before = row(folder, "early")
    with urllib.request.urlopen(f"{before.url}/") as response:
        assert response.status == 200
    assert f"here {url}, there {url}/there" in " ".join(chat4all(folder, "status", COLUMNS="200").stdout.split())
    process = psutil.Process(before.pid)
    assert (process.name(), os.getsid(before.pid)) == ("early", before.pid)
    server = process.parent()
    assert server is not None
    os.kill(before.pid, signal.SIGKILL)
    eventually(lambda: row(folder, "early").restarts == 1 and row(folder, "early").status == READY)
    assert psutil.Process(row(folder, "early").pid).parent() == server
    again = row(folder, "early").pid
    server.kill()  # the kernel ends what it had started, and the next start finds another
    eventually(lambda: row(folder, "early").restarts == 2 and row(folder, "early").status == READY)
    assert row(folder, "early").pid not in {before.pid, again}
    assert not psutil.pid_exists(again) or psutil.Process(again).status() == psutil.STATUS_ZOMBIE


def unsteady(name: str, ends: int, folder: Path, *, code: int) -> Process:
    """Ends with `code` so many times before it serves."""
    fine = program(name, restarts=True)
    count = f"import pathlib, sys; file = pathlib.Path({str(folder / name)!r}); n = len(file.read_text()) if file.exists() else 0\n"
    count += f"file.write_text('x' * (n + 1)); n < {ends} and sys.exit({code})\n"
    return dataclasses.replace(fine, argv=[sys.executable, "-c", count + PROGRAM, fine.argv[-1]])


def test_a_worker_that_asks_for_a_new_start_gets_it_before_it_has_answered_too(folder: Path, tmp_path: Path) -> None:
    plan = StackPlan(servers=[], processes=[unsteady("twice", 2, tmp_path, code=3)])
    control.start(folder, plan)
    assert (row(folder, "twice").status, row(folder, "twice").restarts) == (READY, 2)
    assert "TWICE ENDED with 3 before it answered; restarting it" in (folder / "supervisor.log").read_text()


@pytest.mark.parametrize(("ends", "code"), [(9, 3), (1, 2)])
def test_a_worker_that_cannot_start_fails_the_start(folder: Path, tmp_path: Path, ends: int, code: int) -> None:
    with pytest.raises(StackRefused, match=f"never ended with {code} before it answered"):
        control.start(folder, StackPlan(servers=[], processes=[unsteady("never", ends, tmp_path, code=code)]))


def test_a_killed_supervisor_takes_all_with_it_and_is_told_from_a_live_one(folder: Path) -> None:
    state = control.start(folder, small_plan())
    children = [psutil.Process(service.pid) for service in state.services if service.pid]
    os.kill(state.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert not is_running(folder)
    shown = chat4all(folder, "status")
    assert shown.returncode == 2
    assert f"(pid {state.pid}) is dead" in shown.stderr
    control.start(folder, small_plan())  # the state file of the dead one does not prevent a start
    assert row(folder, "valkey").status == READY


@pytest.mark.parametrize(("keep_data", "expected"), [(True, b"1"), (False, None)])
def test_data_outlive_down_only_when_asked(folder: Path, keep_data: bool, expected: bytes | None) -> None:
    control.start(folder, small_plan(keep_data=keep_data))
    with redis.Redis.from_url(row(folder, "valkey").url) as client:
        client.incr("counter")
    ended = chat4all(folder, "down")
    assert ended.returncode == 0
    assert ("data kept" if keep_data else "data deleted") in ended.stdout
    assert folder.exists() == keep_data
    assert read_state(folder) is None
    control.start(folder, small_plan())
    with redis.Redis.from_url(row(folder, "valkey").url) as client:
        assert client.get("counter") == expected


def test_a_start_that_fails_says_why_ends_the_rest_and_keeps_the_logs(folder: Path) -> None:
    with pytest.raises(StackRefused, match=r"prepare ended with 2; log .*prepare\.log ends: topics differ"):
        control.start(folder, small_plan(prepare="print('topics differ'); raise SystemExit(2)"))
    state = read_state(folder)
    assert state is not None
    assert state.phase == FAILED
    valkey = row(folder, "valkey")
    assert not psutil.pid_exists(valkey.pid) or psutil.Process(valkey.pid).status() == psutil.STATUS_ZOMBIE
    assert "topics differ" in chat4all(folder, "logs", "prepare").stdout
    assert "did not start: prepare ended with 2" in chat4all(folder, "status").stderr
    assert not is_running(folder)


def test_interrupting_a_start_ends_what_it_started(folder: Path) -> None:
    script = "import sys; from pathlib import Path; from stack import control; from stack.plan import StackPlan;"
    script += "control.start(Path(sys.argv[1]), StackPlan.from_json(sys.stdin.read()))"
    starter = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert starter.stdin is not None
    starter.stdin.write(small_plan(prepare="import time; time.sleep(600)").to_json())
    starter.stdin.close()
    eventually((folder / "prepare" / "prepare.log").exists)
    valkey = psutil.Process(row(folder, "valkey").pid)
    starter.send_signal(signal.SIGINT)
    assert starter.wait(30) != 0
    assert starter.stderr is not None
    starter.stderr.close()
    assert not valkey.is_running()
    assert not folder.exists()


def test_status_and_logs_show_a_running_stack(folder: Path) -> None:
    assert "start it with `chat4all up`" in chat4all(folder, "status").stderr
    control.start(folder, small_plan())
    shown = chat4all(folder, "status")
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["service", "status", "version", "URL", "memory", "up", "since", "restarts"]
    valkey = next(line.split() for line in lines if line.startswith("valkey"))
    assert valkey[1:4] == ["ready", row(folder, "valkey").version, row(folder, "valkey").address]
    assert (int(valkey[4]), valkey[5]) > (0, "")
    assert (
        chat4all(folder, "logs", "stage", "-n", "1").stdout.endswith("listening\n")
        or "GET" in (folder / "stage" / "stage.log").read_text()
    )
    assert "answers on" in chat4all(folder, "logs", "supervisor").stdout
    said = chat4all(folder, "logs", "supervisor").stdout + shown.stdout + chat4all(folder, "up").stderr
    password = urlsplit(row(folder, "valkey").url).password
    assert password
    assert password not in said
    assert "redis://default:***@127.0.0.1" in said
    shown = chat4all(folder, "status", "--show-secrets", COLUMNS="200")
    assert row(folder, "valkey").url in shown.stdout
    assert "CHAT4ALL_TELEGRAM_TOKEN=1:secret\n" in shown.stdout
    unknown = chat4all(folder, "logs", "nobody")
    assert unknown.returncode == 2
    assert "there are: prepare, simulator, stage, supervisor, valkey" in unknown.stderr


def test_what_a_stack_writes_is_for_its_owner_only(folder: Path) -> None:
    write = (
        "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('kept'); pathlib.Path(sys.argv[1] + '.d').mkdir()"
    )
    plan = small_plan()
    command = Command(name="writer", argv=[sys.executable, "-c", write, str(folder / "kept")])
    control.start(folder, dataclasses.replace(plan, prepare=[*plan.prepare, command]))
    modes = {path.relative_to(folder): stat.S_IMODE(path.lstat().st_mode) for path in [folder, *folder.rglob("*")]}
    assert set(modes.values()) <= {0o600, 0o700}, modes
    assert {folder.parent.stat().st_mode & 0o777, modes[Path()], modes[Path("kept.d")]} == {0o700}
    assert {modes[Path(name)] for name in ("state.json", "lock", "supervisor.log", "stage/stage.log", "kept")} == {
        0o600
    }


@pytest.mark.parametrize("said", ["postgresql://me:0123456789abcdef@h/d", "bot 1:secret-of-a-bot", "0123456789abcdef"])
def test_the_log_of_a_program_gives_no_secret_away(folder: Path, said: str) -> None:
    plan = dataclasses.replace(
        small_plan(prepare=f"print({said!r}); raise SystemExit(2)"),
        settings={"telegram_token": "1:secret-of-a-bot", "postgres_url": "postgresql://me:0123456789abcdef@h/d"},
    )
    with pytest.raises(StackRefused, match=r"prepare ended with 2") as refused:
        control.start(folder, plan)
    state, log = read_state(folder), (folder / "supervisor.log").read_text()
    assert state is not None
    for text in (str(refused.value), state.error, log, chat4all(folder, "status").stderr):
        assert "***" in text
        assert "0123456789abcdef" not in text
        assert "secret-of-a-bot" not in text


def test_logs_follow(folder: Path) -> None:
    control.start(folder, small_plan())
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CHAT4ALL_")}
    command = [sys.executable, "-m", "cli.main", "logs", "stage", "--lines", "0", "--follow"]
    said, log = folder.parent / "said", folder / "stage" / "stage.log"
    with said.open("w") as output:
        follower = subprocess.Popen(command, cwd=folder.parent.parent, env=inherited, stdout=output)

    def shows_what_is_written() -> bool:
        """The follower starts at the end of the file at some later time, so each check writes a line."""
        with log.open("a") as file:
            file.write("one more line\n")
        return said.read_text().endswith("one more line\n")

    try:
        eventually(shows_what_is_written)
    finally:
        follower.send_signal(signal.SIGINT)
    assert follower.wait(10) == 0


def test_up_with_everything_replaced_starts_no_server_and_names_what_fails(folder: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    env = {"CHAT4ALL_KAFKA_URL": nowhere, "CHAT4ALL_POSTGRES_URL": f"postgresql://a:b@{nowhere}/c"}
    env |= {"CHAT4ALL_CLICKHOUSE_URL": f"http://{nowhere}", "CHAT4ALL_VALKEY_URL": f"redis://{nowhere}/0"}
    env |= {"CHAT4ALL_S3_URL": f"http://{nowhere}"}
    failed = chat4all(folder, "up", **env)
    assert failed.returncode == 2
    assert failed.stderr.startswith("prepare ended with 2; log ")
    assert len(failed.stderr.splitlines()) == 1
    assert not {path.name for path in folder.iterdir()} & set(SERVERS)


def test_a_bad_name_is_refused(folder: Path) -> None:
    folder.parent.parent.mkdir(exist_ok=True)
    refused = chat4all(folder, "up", "--name", "../elsewhere")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "is no name for a folder" in refused.stderr


def test_an_unknown_server_is_refused(folder: Path) -> None:
    folder.parent.parent.mkdir(exist_ok=True)
    refused = chat4all(folder, "up", "--with", "valkey", "--with", "mongo")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "--with 'mongo': choose valkey or s3; the other servers always start\n"
