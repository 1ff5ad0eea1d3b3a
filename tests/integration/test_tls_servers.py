"""PostgreSQL, Valkey, ClickHouse and S3 with TLS: the settings connect, certificates are checked, and each failure is one line.

The servers of the stack's wheels are built without TLS; stack/tls_front.py is in front of them, like a proxy in many deployments.
"""

import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import boto3
import psycopg
import pytest
import redis
from botocore.config import Config

from schemas import access_errors
from schemas.settings import Settings
from sinks import migrate
from sinks.clickhouse import connect
from sinks.postgres import PostgresArchive
from sinks.sink_errors import Unavailable
from stack import tls_server
from stack.certificates import Certificates
from stack.ports import answers, free_port
from stack.service import Child, Service
from tests.support.sink_databases import postgres_database

BIG = 3_000_000


@pytest.fixture(scope="module")
def secured(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_url: str,
    clickhouse_url: str,
    valkey_url: str,
    s3: dict[str, str],
) -> Iterator[Settings]:
    urls = {"postgres_url": postgres_url, "clickhouse_url": clickhouse_url, "valkey_url": valkey_url, **s3}
    child = Child(tls_server.service(tmp_path_factory.mktemp("tls"), urls))
    child.start()
    try:
        child.wait()
        yield Settings.model_validate(urls | dict(child.service.settings))
    finally:
        child.stop()


def test_every_server_is_reached_with_tls(secured: Settings) -> None:
    assert "sslmode=verify-full" in secured.postgres_url
    with psycopg.connect(secured.postgres_url) as connection:
        assert connection.pgconn.ssl_in_use
        text = "x" * BIG
        row = connection.execute("select %s::text, pg_size_bytes('1kB')", (text,)).fetchone()
        assert row == (text, 1024)
    client = connect(secured.clickhouse_url)
    assert client.query("select length({text:String})", parameters={"text": "y" * 1000}).result_rows == [(1000,)]
    client.close()
    with redis.Redis.from_url(secured.valkey_url) as valkey:
        valkey.set("tls", b"z" * BIG)
        assert valkey.get("tls") == b"z" * BIG
        valkey.delete("tls")
    s3: Any = boto3.client(
        "s3",
        endpoint_url=secured.s3_url,
        verify=secured.s3_ca_file,
        region_name="us-east-1",
        aws_access_key_id=secured.s3_access_key,
        aws_secret_access_key=secured.s3_secret_key.get_secret_value(),
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    s3.list_buckets()
    s3.close()


async def test_the_product_s_own_clients_use_it(secured: Settings) -> None:
    with postgres_database(secured.postgres_url) as url:
        archive = PostgresArchive(url)
        await archive.open()
        assert await archive.positions([("messages", 0)]) == {("messages", 0): 0}
        await archive.close()
    migrate.check(secured.postgres_url, secured.clickhouse_url)


def test_nobody_gets_in_without_tls(secured: Settings) -> None:
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(secured.postgres_url.replace("verify-full", "disable"), connect_timeout=5)
    plain = urlsplit(secured.valkey_url)
    valkey = redis.Redis.from_url(f"redis://{plain.netloc}/0", socket_timeout=5)
    with valkey, pytest.raises(redis.ConnectionError):
        valkey.ping()


def with_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    who, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{who}{at}127.0.0.1:{port}", query=""))


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Callable[[str, str, Path], int]]:
    """Starts TLS in front of a server, with the certificate of a test. Returns its port."""
    children: list[Child] = []

    def start(name: str, url: str, certificate: Path) -> int:
        port = free_port()
        argv = [sys.executable, "-m", "stack.tls_front", "--certificate", str(certificate)]
        step = [*argv, f"{name}={port}:{urlsplit(url).port}"]
        children.append(
            Child(Service(name="tls", folder=tmp_path, url="", steps=[step], probe=lambda: listening(port)))
        )
        children[-1].start()
        children[-1].wait()
        return port

    yield start
    for child in children:
        child.stop()


def listening(port: int) -> str:
    answers(port)
    return "it listens"


def test_nothing_that_came_before_tls_counts_as_encrypted(
    front: Callable[[str, str, Path], int], postgres_url: str, tmp_path: Path
) -> None:
    port = front("postgres", postgres_url, Certificates(tmp_path / "one").issue("server"))
    request = struct.pack("!II", 8, 80_877_103)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(request + b"words of somebody between")
        assert client.recv(1) == b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(request)
        assert client.recv(1) == b"S"


EXPECTED = {
    "expired": "its certificate has expired; it needs a new one",
    "another name": "its certificate is for another name than 127.0.0.1; look at CHAT4ALL_{}_URL",
    "unknown": "its certificate is not signed by an authority in {}",
}


@pytest.mark.parametrize("fault", sorted(EXPECTED))
def test_a_certificate_that_is_not_good_is_one_line(
    fault: str, front: Callable[[str, str, Path], int], postgres_url: str, valkey_url: str, tmp_path: Path
) -> None:
    made, strange = Certificates(tmp_path / "one"), Certificates(tmp_path / "two")
    strange.issue("nobody")
    certificate = {
        "expired": lambda: made.expired("late"),
        "another name": lambda: made.issue("other", ("db.example",)),
        "unknown": lambda: made.issue("server"),
    }[fault]()
    ca = strange.ca if fault == "unknown" else made.ca
    port = front("postgres", postgres_url, certificate)
    settings = Settings.model_validate({"postgres_url": with_port(postgres_url, port), "postgres_ca_file": str(ca)})
    with pytest.raises(Unavailable) as refused:
        migrate.check(settings.postgres_url, "")
    expected = EXPECTED[fault].format(ca if fault == "unknown" else "POSTGRES")
    assert str(refused.value).startswith(f"PostgreSQL at 127.0.0.1:{port}: {expected}")
    assert "\n" not in str(refused.value)
    port = front("valkey", valkey_url, certificate)
    url = with_port(valkey_url, port).replace("redis://", "rediss://")
    settings = Settings.model_validate({"valkey_url": url, "valkey_ca_file": str(ca)})
    with redis.Redis.from_url(settings.valkey_url) as valkey, pytest.raises(redis.ConnectionError) as away:
        valkey.ping()
    expected = EXPECTED[fault].format(ca if fault == "unknown" else "VALKEY")
    sentence = access_errors.access_error(access_errors.of_url("Valkey", settings.valkey_url), away.value)
    assert sentence.startswith(f"Valkey at 127.0.0.1:{port}: {expected}")


def test_a_wrong_password_is_one_line_without_it(secured: Settings) -> None:
    parts = urlsplit(secured.postgres_url)
    url = urlunsplit(parts._replace(netloc=f"chat4all@127.0.0.1:{parts.port}"))
    settings = Settings.model_validate({"postgres_url": url, "postgres_password": "wrong-one"})
    with pytest.raises(Unavailable) as refused:
        migrate.check(settings.postgres_url, "")
    assert str(refused.value) == (
        f"PostgreSQL at 127.0.0.1:{parts.port} refuses user chat4all: unknown user or wrong password; look at "
        "CHAT4ALL_POSTGRES_URL and CHAT4ALL_POSTGRES_PASSWORD (or its _FILE)"
    )
    url = Settings.model_validate(
        {"valkey_url": secured.valkey_url.replace(urlsplit(secured.valkey_url).password or "", "wrong-one")}
    ).valkey_url
    valkey = redis.Redis.from_url(url)
    with valkey, pytest.raises(redis.RedisError) as away:
        valkey.ping()
    sentence = access_errors.access_error(access_errors.of_url("Valkey", secured.valkey_url), away.value)
    assert "unknown user or wrong password; look at CHAT4ALL_VALKEY_URL and CHAT4ALL_VALKEY_PASSWORD" in sentence


def test_a_server_without_tls_is_told(postgres_url: str, secured: Settings) -> None:
    ca = urlsplit(secured.postgres_url).query.rpartition("=")[2]
    settings = Settings.model_validate({"postgres_url": postgres_url, "postgres_ca_file": ca})
    with pytest.raises(
        Unavailable, match=r"^PostgreSQL at 127\.0\.0\.1:\d+ does not use TLS: look at CHAT4ALL_POSTGRES_URL"
    ):
        migrate.check(settings.postgres_url, "")
