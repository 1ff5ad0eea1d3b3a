"""The sentences made from a server's URL and a client library's error, and how programs with wrong settings end."""

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from cli.load_run import LoadOptions, run_load
from cli.main import expected
from schemas import access_errors
from schemas.environment import foreign
from schemas.settings import Settings
from sinks import migrate
from sinks.sink_errors import Unavailable
from stack.ports import free_port
from tests.support.source_tree import REPOSITORY

SECRET = "never-shown-51ab"


@pytest.mark.parametrize(
    ("url", "host", "port", "ca"),
    [
        ("postgresql://me@one:6432,two:6433/db?sslrootcert=/ca.pem", "one", 6432, "/ca.pem"),
        ("postgresql://me@one,two/db?sslrootcert=system", "one", 5432, ""),
        ("postgresql://me@one:port/db", "one", 5432, ""),
        ("postgresql:///db?host=/run/postgresql", "localhost", 5432, ""),
        ("postgresql://me@[::1]:6432/db", "::1", 6432, ""),
    ],
)
def test_a_server_is_known_from_every_url_its_library_takes(url: str, host: str, port: int, ca: str) -> None:
    server = access_errors.of_url("PostgreSQL", url)
    assert (server.host, server.port, server.ca_file) == (host, port, ca)


def test_a_file_without_a_certificate_is_named(tmp_path: Path) -> None:
    """Not a refused handshake with the name of a setting that does not exist."""
    (tmp_path / "ca.pem").write_text("nothing", encoding="ascii")
    server = access_errors.Server("PostgreSQL", "POSTGRES", "127.0.0.1", free_port(), ca_file=str(tmp_path / "ca.pem"))
    sentence = access_errors.access_error(server, psycopg.OperationalError("SSL error: no certificate or crl found"))
    assert sentence == f"{server.place}: {tmp_path / 'ca.pem'} contains no certificate in PEM"


def test_a_url_with_an_unknown_parameter_is_one_line() -> None:
    with pytest.raises(
        Unavailable, match=r"^PostgreSQL cannot be reached \(CHAT4ALL_POSTGRES_URL\): .*ssl_mode"
    ) as raised:
        migrate.check(f"postgresql://me:{SECRET}@127.0.0.1:1/db?ssl_mode=require", "")
    assert "\n" not in str(raised.value)
    assert SECRET not in str(raised.value)


def test_a_load_checks_the_databases_before_it_starts(tmp_path: Path) -> None:
    url = f"postgresql://me:{SECRET}@127.0.0.1:{free_port()}/db"
    settings = Settings.model_validate({"kafka_url": "127.0.0.1:1", "postgres_url": url})
    knobs = LoadOptions(
        count=1, rate=1.0, channels=("telegram",), conversations=1, group_share=0.0, groups=1, group_size=2, duplicates=0.0,
        seed=1,
    )  # fmt: skip  # options on two lines
    with pytest.raises(Unavailable) as raised:
        run_load(tmp_path, settings, knobs)
    line = expected(raised.value) or ""
    assert line.startswith("PostgreSQL cannot be reached (CHAT4ALL_POSTGRES_URL)")
    assert SECRET not in line


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "sinks.migrate"],
        ["-m", "pipelines", "prepare"],
        ["-m", "simulators", "telegram"],
        ["-m", "cli.main", "report", "delivery"],
        ["-c", "import pipelines.faust_apps; pipelines.faust_apps.core"],
    ],
    ids=" ".join,
)
def test_a_program_with_wrong_settings_ends_in_one_line(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{SECRET}\n{SECRET}\n", encoding="ascii")
    wrong = {
        "CHAT4ALL_KAFKA_PASSWORD_FILE": str(tmp_path / "password"),
        "CHAT4ALL_STATE": str(tmp_path / "none.json"),
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(
        [sys.executable, *command],
        env=foreign(wrong),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (1, 2)
    [line] = done.stderr.splitlines()
    assert line.endswith(
        f"CHAT4ALL_KAFKA_PASSWORD_FILE: {tmp_path / 'password'} has several lines, but a secret has one"
    )
    assert SECRET not in done.stdout + done.stderr
