"""A confined process can open only what it was allowed to, from every thread and program."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stack import clickhouse_front
from tests.support.source_tree import REPOSITORY

CONFINED = """
import json, socket, subprocess, sys, threading
from pathlib import Path
from stack import unprivileged
from stack.confinement import confine

def attempt(what):
    try:
        what()
    except OSError as error:
        return type(error).__name__
    return "done"

inside, outside = map(Path, sys.argv[1:])
listening = socket.create_server(("127.0.0.1", 0))
unprivileged.gain_nothing()
if not confine([Path("/usr"), Path("/bin"), Path("/lib"), Path("/lib64")], [inside]):
    sys.exit(77)
(inside / "a").mkdir()
tried = {
    "write": lambda: (inside / "file").write_text("x"),
    "rename": lambda: (inside / "file").rename(inside / "a" / "file"),
    "read outside": (outside / "secret").read_text,
    "write outside": lambda: (outside / "new").write_text("x"),
    "cut outside": lambda: open(outside / "secret", "r+").truncate(),
    "list outside": lambda: list(outside.iterdir()),
    "connect": lambda: socket.create_connection(listening.getsockname(), timeout=5),
    "program": lambda: subprocess.run(["/usr/bin/env", "cat", outside / "secret"], stdin=-1, stderr=-1, check=False),
}
found = {name: attempt(what) for name, what in tried.items()}
of_thread = []
thread = threading.Thread(target=lambda: of_thread.append(attempt((outside / "secret").read_text)))
thread.start()
thread.join()
print(json.dumps(found | {"thread": of_thread[0]}))
"""
REFUSED = ("read outside", "write outside", "cut outside", "list outside", "connect", "thread")


def run(program: str, *arguments: str, environment: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if ran.returncode == 77:
        pytest.skip("this kernel has no Landlock")
    return ran


def test_a_confined_process_opens_nothing_else_in_any_thread_or_program(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("of somebody")
    ran = run(CONFINED, str(inside), str(outside))
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found == dict.fromkeys(("write", "rename", "program"), "done") | dict.fromkeys(REFUSED, "PermissionError")
    assert "of somebody" not in ran.stdout
    assert (outside / "secret").read_text() == "of somebody"


ENGINE = """
import sys
from stack import clickhouse_front
from stack.clickhouse_engine import keep_default, opened
if not clickhouse_front.confined(sys.argv[1]):
    sys.exit(77)
keep_default(sys.argv[1])
engine = opened(sys.argv[1])
for statement in sys.argv[2:]:
    try:
        print(engine.query(statement, "TSV").bytes().decode())
    except RuntimeError as error:
        print("refused", "ermission denied" in str(error))
"""


def test_the_engine_opens_no_file_of_others_whatever_passes_by_its_door(tmp_path: Path) -> None:
    """These statements go to the engine unchecked."""
    data, temporary, secret = tmp_path / "data", tmp_path / "tmp", tmp_path / "secret"
    data.mkdir()
    temporary.mkdir()
    secret.write_text("of somebody")
    statements = [
        f"SELECT file('{secret}')",
        f"SELECT arrayMap(file, ['{secret}'])",
        f"CREATE TABLE r (k String) ENGINE = EmbeddedRocksDB(0, '{tmp_path}/rocks') PRIMARY KEY k",
        f"SELECT 1 INTO OUTFILE '{tmp_path}/out'",
        "CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a",
        "INSERT INTO t SELECT number FROM numbers(1000)",
        "OPTIMIZE TABLE t FINAL",
        "SELECT sum(a) FROM t",
    ]
    ran = run(ENGINE, str(data), *statements, environment={"TMPDIR": str(temporary), "TZ": "UTC"})
    printed = [line for line in ran.stdout.splitlines() if line]
    assert printed == ["refused True"] * 4 + ["499500"], ran.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "secret", "tmp"]


def test_the_front_may_read_no_folder_with_data_of_others() -> None:
    assert not {"/", "/etc", "/home", "/proc", "/root", "/var", "/run"} & set(clickhouse_front.READ)
