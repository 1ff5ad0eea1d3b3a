"""The rights of the stack's servers, and of other users on the stack's files. Root starts the servers here, as on many build machines."""

import contextlib
import os
import pwd
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from schemas import private_files
from stack import clickhouse_server, kafka_server, postgres_server, s3_server, tls_server, unprivileged, valkey_server
from stack.launch import ServiceFailed
from stack.programs import reachable
from stack.service import Child, Service

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
NOBODY = pwd.getpwnam("nobody").pw_uid
MAKERS: dict[str, Callable[[Path], Service]] = {
    "kafka": lambda folder: kafka_server.service(folder, heap="512m", locks="secured"),
    "postgres": postgres_server.service,
    "valkey": valkey_server.service,
    "clickhouse": clickhouse_server.service,
    "s3": s3_server.service,
    "tls": lambda folder: tls_server.service(folder, {"valkey_url": "redis://default:of-the-stack@127.0.0.1:1/0"}),
}
Start = Callable[[str], Child]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stack's folder below a folder that no other user can enter, such as /root; with a state file."""
    folder = private_files.make_folder(tmp_path_factory.mktemp("closed") / ".chat4all" / "dev")
    folder.parents[1].chmod(0o700)
    private_files.write(folder / "state.json", '{"settings": {"telegram_token": "1:secret"}}')
    return folder


@pytest.fixture(scope="module")
def start(folder: Path) -> Iterator[Start]:
    """Starts a server of this stack, once, from an environment with secrets of the product."""
    children: dict[str, Child] = {}
    with pytest.MonkeyPatch.context() as patched, contextlib.ExitStack() as stopping:
        patched.setenv("CHAT4ALL_TELEGRAM_TOKEN", "1234567890:a-token-of-somebody")

        def started(name: str) -> Child:
            if name not in children:
                children[name] = Child(MAKERS[name](folder / name))
                children[name].start()
                stopping.callback(children[name].stop)
                children[name].wait()
            return children[name]

        yield started


def family(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def statuses(pid: int) -> Iterator[tuple[int, dict[str, list[str]]]]:
    """Each thread of a process with the kernel's status of it. Ended processes are skipped: PostgreSQL starts some for a moment."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                lines = (thread / "status").read_text(encoding="ascii").splitlines()
                yield int(thread.name), {key: value.split() for key, value in (line.split(":", 1) for line in lines)}


@as_root
@pytest.mark.parametrize("name", MAKERS)
def test_a_server_is_nobody_and_has_no_capability_in_any_thread(start: Start, name: str) -> None:
    server, seen = start(name).pid, set()
    for pid in [process.pid for process in family(server)]:
        for thread, said in statuses(pid):
            seen.add(thread)
            assert said["Uid"] == [str(NOBODY)] * 4
            assert said["Groups"] == []
            assert {int(said[f"Cap{each}"][0], 16) for each in ("Inh", "Prm", "Eff", "Amb")} == {0}
            assert said["NoNewPrivs"] == ["1"]
            if thread == pid:
                assert int(said["CapBnd"][0], 16) == 0
    assert server in seen


@as_root
def test_sql_reads_no_file_of_root(start: Start, folder: Path) -> None:
    secret = folder / "state.json"
    with psycopg.connect(start("postgres").service.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE taken (line text)")
        for file in ("/etc/shadow", str(secret), str(folder / "postgres" / "password")):
            for attempt in ("SELECT pg_read_file(%s)", "SELECT pg_read_binary_file(%s)", "SELECT lo_import(%s)"):
                with pytest.raises(psycopg.Error, match=r"Permission denied|No such file"):
                    connection.execute(attempt.encode(), [file])
            for source in (f"'{file}'", f"PROGRAM 'cat {file}'"):
                with pytest.raises(psycopg.Error, match=r"Permission denied|No such file|program .* failed"):
                    connection.execute(f"COPY taken FROM {source}".encode())
        assert connection.execute("SELECT count(*) FROM taken").fetchone() == (0,)
        # It can still read a file it may read; so the function itself works, and the check above is valid.
        assert connection.execute("SELECT length(pg_read_file('PG_VERSION')) > 0").fetchone() == (True,)


@as_root
def test_sql_plants_no_link_that_root_would_follow(start: Start, folder: Path, tmp_path: Path) -> None:
    """Root owns the server's folder, so the server cannot replace the log in it, which root opens, by a link."""
    with psycopg.connect(start("postgres").service.url, autocommit=True) as connection:
        for name in ("postgres.log", "password"):
            with pytest.raises(psycopg.Error, match="program"):
                connection.execute(f"COPY (SELECT 1) TO PROGRAM 'ln -sf {tmp_path} {folder}/postgres/{name}'".encode())
    assert not (folder / "postgres" / "postgres.log").is_symlink()


@pytest.mark.parametrize("name", MAKERS)
def test_nobody_else_reads_what_a_server_writes(start: Start, name: str, folder: Path) -> None:
    start(name)
    open_to_others = [
        f"{stat.filemode(path.lstat().st_mode)} {path.relative_to(folder)}"
        for path in [folder, *(folder / name).rglob("*")]
        if not path.is_symlink() and path.lstat().st_mode & 0o077
    ]
    assert open_to_others == []


@pytest.mark.parametrize("name", MAKERS)
def test_no_process_list_shows_a_password_and_no_server_has_our_secrets(start: Start, name: str) -> None:
    child = start(name)
    secrets = [child.service.url.rpartition("@")[0].rpartition(":")[2], child.service.settings.get("s3_secret_key", "")]
    looked = 0
    for process in family(child.pid):
        with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL starts some for a moment
            shown, environment = " ".join(process.cmdline()), " ".join(process.environ().values())
            assert not [secret for secret in secrets if secret and secret in shown]
            assert "a-token-of-somebody" not in environment
            looked += 1
    assert looked


@as_root
def test_a_checkout_that_only_root_may_enter_is_no_obstacle(tmp_path: Path) -> None:
    """The project, with a stack in it, below a folder that only root can enter: the servers still find its code."""
    checkout = private_files.make_folder(tmp_path / "root" / "project")
    (checkout / "stack").symlink_to(Path(clickhouse_server.__file__).parent)
    for name in ("clickhouse", "kafka", "postgres"):
        child = Child(MAKERS[name](private_files.make_folder(checkout / ".chat4all" / "dev" / name)))
        try:
            child.start()
            child.wait()
        finally:
            child.stop()
    assert stat.S_IMODE(checkout.stat().st_mode) == stat.S_IMODE((checkout / ".chat4all").stat().st_mode) == 0o700


WITHOUT_NAMESPACES = """
import sys
from pathlib import Path
from stack import postgres_server, unprivileged
from stack.launch import ServiceFailed
from stack.service import Child
assert unprivileged.LIBC.prctl(unprivileged.PR_CAPBSET_DROP, 21, 0, 0, 0) == 0  # CAP_SYS_ADMIN: gone with the next exec
child = Child(postgres_server.service(Path(sys.argv[1])))
try:
    child.start()
    child.wait()
    print(child.version)
except ServiceFailed as error:
    print(error)
finally:
    child.stop()
"""


def without_namespaces(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NAMESPACES, str(folder)], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


@as_root
def test_where_root_may_make_no_namespace_it_opens_its_own_folders_and_no_others(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder = private_files.make_folder(Path(place) / ".chat4all" / "dev" / "postgres")
        assert without_namespaces(folder).startswith("18")
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o711
    tmp_path.chmod(0o700)
    said = without_namespaces(private_files.make_folder(tmp_path / ".chat4all" / "dev" / "postgres"))
    closed = unprivileged.closed_above(tmp_path / "any", NOBODY)
    assert f"cannot enter {closed} to reach {tmp_path}" in said
    assert f"run `chmod o+x {closed}`" in said


@as_root
def test_programs_that_only_root_may_read_are_copied(tmp_path: Path) -> None:
    installed = tmp_path / "site-packages" / "programs"
    (installed / "bin").mkdir(parents=True)
    (installed / "bin" / "server").write_text("#!/bin/sh\n")
    (installed / "bin" / "server").chmod(0o755)
    assert reachable(tmp_path / "stack", installed) == [installed]
    for path in (installed / "bin" / "server", installed / "bin"):
        path.chmod(path.stat().st_mode & ~0o007)  # as umask 027 leaves them
        [copy] = reachable(tmp_path / "stack", installed)
        assert copy == tmp_path / "stack" / "programs" / "programs"
        assert {stat.S_IMODE(each.stat().st_mode) for each in (copy, copy / "bin", copy / "bin" / "server")} == {0o755}


WITHOUT_A_WAY = """
import sys
from pathlib import Path
from stack import unprivileged
from stack.programs import reachable
assert unprivileged.LIBC.prctl(unprivileged.PR_CAPBSET_DROP, 21, 0, 0, 0) == 0  # CAP_SYS_ADMIN: gone with the next exec
print(*reachable(*map(Path, sys.argv[1:])))
"""


@as_root
def test_programs_below_a_closed_folder_are_copied_where_root_may_make_no_namespace(tmp_path: Path) -> None:
    """Kafka's jars are in root's own cache; root in a container usually has no CAP_SYS_ADMIN."""
    cache = private_files.make_folder(tmp_path / "root") / "jars"
    cache.mkdir()
    (cache / "one.jar").write_bytes(b"one")
    (cache / "one.jar").chmod(0o644)
    cache.chmod(0o755)
    assert reachable(tmp_path / "stack", cache) == [cache]
    command = [sys.executable, "-c", WITHOUT_A_WAY, str(tmp_path / "stack"), str(cache)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    assert found == str(tmp_path / "stack" / "programs" / "jars")
    assert (Path(found) / "one.jar").read_bytes() == b"one"


@as_root
def test_a_link_in_the_place_of_a_log_is_not_followed(tmp_path: Path) -> None:
    folder = private_files.make_folder(tmp_path / "valkey")
    (folder / "valkey.log").symlink_to(tmp_path / "target")
    child = Child(valkey_server.service(folder))
    with pytest.raises((OSError, ServiceFailed)):
        child.start()
    assert not (tmp_path / "target").exists()
