"""PostgreSQL and Valkey (or Redis) with TLS of their own, as in a deployment: the settings connect, and each failure is one line.

The stack's wheels are built without TLS (test_tls_servers.py puts a proxy in front of them), so these servers are the system's: Debian's
packages postgresql and redis-server or valkey-server, which .ci/run installs if it can. Without them the tests are skipped.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import redis

from schemas import access_errors, private_files
from schemas.settings import Settings
from sinks import migrate
from sinks.postgres import PostgresArchive
from sinks.sink_errors import Unavailable
from stack.certificates import Certificates
from stack.ports import free_port
from stack.service import Child, Service, as_nobody, nobody
from tests.support.sink_databases import postgres_database

PASSWORD = "own-tls/of this:test@alone"
USER = "chat4all"
REFUSED = {
    "expired": "its certificate has expired; it needs a new one",
    "another name": "its certificate is for another name than 127.0.0.1; look at CHAT4ALL_{}_URL",
    "unknown": "its certificate is not signed by an authority in {}; look at CHAT4ALL_{}_CA_FILE",
}


def program(package: str, *names: str) -> Path:
    """The first of these programs that is installed, also in Debian's folder for a version."""
    hidden = [str(folder) for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    path = os.pathsep.join([*hidden, os.environ.get("PATH", ""), "/usr/sbin"])
    found = next(filter(None, (shutil.which(name, path=path) for name in names)), None)
    if found is None:
        pytest.skip(f"no {' or '.join(names)} with TLS of its own here; on Debian: apt-get install {package}")
    return Path(found)  # not resolved: redis-server is a link, and the program acts by its name


class OwnTls:
    """An installed server with a folder of the test. It can be started again with another certificate."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder, self.port = name, folder.resolve(), free_port()
        self._child: Child | None = None
        for each in (self.folder / "data", self.folder / "tmp"):
            private_files.make_folder(each)
        self.certificate = self.folder / "tmp" / "server.pem"

    def start(self, certificate: Path, steps: list[list[str]], binary: Path) -> None:
        self.stop()
        self.give(self.certificate, certificate.read_text(encoding="ascii"))
        rights = as_nobody(self.folder, binary.parent)
        self._child = Child(
            Service(name=self.name, folder=self.folder, url="", steps=steps, probe=self._probe, unprivileged=rights)
        )
        self._child.start()
        self._child.wait()

    def give(self, file: Path, text: str) -> Path:
        """A file that only the server may read."""
        private_files.write(file, text)
        if (user := nobody()) is not None:
            os.chown(file, user, user)
        return file

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()

    def _probe(self) -> str:
        """Whether it accepts a client. A port that listens is not enough: PostgreSQL refuses all clients while it starts up."""
        if self.name == "postgres":
            unchecked = f"{url_of(self.name, self.port)}?sslmode=require"
            psycopg.connect(unchecked, password=PASSWORD, connect_timeout=5).close()
        else:
            with redis.Redis.from_url(
                url_of(self.name, self.port), password=PASSWORD, ssl_cert_reqs="none", socket_timeout=5
            ) as client:
                client.ping()
        return "it lets a client in"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], int]]:
    """Starts PostgreSQL with a certificate; it accepts TLS only. Returns its port."""
    binary = program("postgresql", "postgres")
    server = OwnTls("postgres", tmp_path_factory.mktemp("own-postgres"))
    tmp, data = server.folder / "tmp", server.folder / "data"
    password = server.give(tmp / "password", PASSWORD)
    access = server.give(tmp / "hba", "hostssl all all 127.0.0.1/32 scram-sha-256\n")
    options = {
        "listen_addresses": "127.0.0.1",
        "port": server.port,
        "unix_socket_directories": "",
        "ssl": "on",
        "hba_file": access,
        "ssl_cert_file": server.certificate,
        "ssl_key_file": server.certificate,
        "dynamic_shared_memory_type": "mmap",
    }
    run = [str(binary), "-D", str(data)]
    for option, value in options.items():
        run += ["-c", f"{option}={value}"]
    make = [str(binary.with_name("initdb")), "-D", str(data), "-U", USER, f"--pwfile={password}"]
    make += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
    made: list[list[str]] = [make]

    def started(certificate: Path) -> int:
        server.start(certificate, [*made, run], binary)
        made.clear()
        return server.port

    yield started
    server.stop()


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], int]]:
    """The same with Valkey or Redis."""
    binary = program("redis-server", "valkey-server", "redis-server")
    server = OwnTls("valkey", tmp_path_factory.mktemp("own-valkey"))
    lines = {
        "bind": "127.0.0.1",
        "port": "0",
        "tls-port": server.port,
        "tls-auth-clients": "no",
        "save": '""',
        "dir": f'"{server.folder}/data"',
        "requirepass": f'"{PASSWORD}"',
        "daemonize": "no",
        "tls-cert-file": f'"{server.certificate}"',
        "tls-key-file": f'"{server.certificate}"',
        "tls-ca-cert-file": f'"{server.certificate}"',
    }
    configuration = server.give(
        server.folder / "tmp" / "server.conf", "".join(f"{name} {value}\n" for name, value in lines.items())
    )

    def started(certificate: Path) -> int:
        server.start(certificate, [[str(binary), str(configuration)]], binary)
        return server.port

    yield started
    server.stop()


def url_of(name: str, port: int) -> str:
    return {"postgres": f"postgresql://{USER}@127.0.0.1:{port}/postgres", "valkey": f"rediss://127.0.0.1:{port}/0"}[
        name
    ]


def access(name: str, port: int, ca: Path, password: str = PASSWORD) -> str:
    """The URL that the settings make."""
    given: Mapping[str, str] = {
        f"{name}_url": url_of(name, port),
        f"{name}_password": password,
        f"{name}_ca_file": str(ca),
    }
    return Settings.model_validate(given).text(f"{name}_url")


def why_not(name: str, url: str) -> str:
    """The line that a person reads."""
    if name == "postgres":
        with pytest.raises(Unavailable) as refused:
            migrate.check(url, "")
        sentence = str(refused.value)
    else:
        with redis.Redis.from_url(url) as client, pytest.raises(redis.RedisError) as away:
            client.ping()
        sentence = access_errors.access_error(access_errors.of_url("Valkey", url), away.value)
    assert "\n" not in sentence
    assert PASSWORD not in sentence
    return sentence


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certificates")


async def test_the_archive_writes_to_a_postgresql_with_tls(postgres: Callable[[Path], int], made: Certificates) -> None:
    port = postgres(made.issue("server"))
    with postgres_database(access("postgres", port, made.ca)) as url:
        archive = PostgresArchive(url)
        await archive.open()
        assert await archive.positions([("messages", 0)]) == {("messages", 0): 0}
        await archive.close()
        with psycopg.connect(url) as connection:
            row = connection.execute("select ssl, version from pg_stat_ssl where pid = pg_backend_pid()").fetchone()
        assert row == (True, "TLSv1.3")


def test_valkey_with_tls_is_reached(valkey: Callable[[Path], int], made: Certificates) -> None:
    port = valkey(made.issue("server"))
    with redis.Redis.from_url(access("valkey", port, made.ca)) as client:
        client.set("own", b"tls")
        assert client.get("own") == b"tls"


@pytest.mark.parametrize("name", ["postgres", "valkey"])
def test_a_wrong_password_and_each_certificate_that_is_not_good_are_one_line(
    name: str, request: pytest.FixtureRequest, made: Certificates, tmp_path: Path
) -> None:
    start: Callable[[Path], int] = request.getfixturevalue(name)
    server = {"postgres": "PostgreSQL", "valkey": "Valkey"}[name]
    port = start(made.issue("server"))
    who = f"user {USER}" if name == "postgres" else "our client"
    assert why_not(name, access(name, port, made.ca, "wrong-one")) == (
        f"{server} at 127.0.0.1:{port} refuses {who}: unknown user or wrong password; look at "
        f"CHAT4ALL_{name.upper()}_URL and CHAT4ALL_{name.upper()}_PASSWORD (or its _FILE)"
    )
    strange = Certificates(tmp_path / "stranger")
    strange.issue("nobody")
    for fault, certificate, ca in (
        ("unknown", made.issue("server"), strange.ca),
        ("expired", made.expired("late"), made.ca),
        ("another name", made.issue("other", ("db.example",)), made.ca),
    ):
        port = start(certificate)
        expected = REFUSED[fault].format(*([ca, name.upper()] if fault == "unknown" else [name.upper()]))
        assert why_not(name, access(name, port, ca)) == f"{server} at 127.0.0.1:{port}: {expected}"


@pytest.mark.parametrize("name", ["postgres", "valkey"])
def test_who_speaks_no_tls_is_not_let_in(name: str, request: pytest.FixtureRequest, made: Certificates) -> None:
    start: Callable[[Path], int] = request.getfixturevalue(name)
    parts = urlsplit(access(name, start(made.issue("server")), made.ca))
    plain = {
        "postgres": parts._replace(query="sslmode=disable"),
        "valkey": parts._replace(scheme="redis", query="socket_timeout=5"),
    }[name]
    assert f"cannot be reached (CHAT4ALL_{name.upper()}_URL)" in why_not(name, urlunsplit(plain))
