"""The stack's ClickHouse takes the whole of a compressed request, or nothing of it."""

import gzip
import http.client
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import clickhouse_connect
import lz4.frame
import pytest
from clickhouse_connect.driver.client import Client

from stack.compressed_bodies import zstd
from tests.support.sink_databases import clickhouse_database

ROWS = 100_000
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "lz4": lz4.frame.compress,
    "zstd": zstd.compress,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
}


@pytest.fixture
def database(clickhouse_url: str) -> Iterator[str]:
    with clickhouse_database(clickhouse_url, migrated=False) as url:
        yield url


def _client(database: str, compress: str | bool = True) -> Client:
    return clickhouse_connect.get_client(dsn=database, compress=compress)


def _numbers(client: Client) -> int:
    return int(client.query("select count() from numbers_of_a_test").result_rows[0][0])


@pytest.mark.parametrize("compress", ["lz4", "zstd", "gzip", False])
def test_an_insert_of_many_blocks_arrives_whole(database: str, compress: str | bool) -> None:
    """The client compresses each block by itself."""
    client = _client(database, compress)
    client.command("create table numbers_of_a_test (number UInt64, text String) engine = MergeTree order by number")
    columns: list[list[Any]] = [list(range(ROWS)), ["a text that makes a row long" * 10] * ROWS]
    context = client.create_insert_context(
        "numbers_of_a_test",
        ["number", "text"],
        data=columns,
        column_oriented=True,
        column_type_names=["UInt64", "String"],
    )
    assert context.block_row_count < ROWS / 4, "one block would test nothing"
    client.insert(context=context)
    assert _numbers(client) == ROWS
    client.close()


@pytest.mark.parametrize("encoding", list(COMPRESS))
def test_a_body_that_was_cut_off_is_refused_and_nothing_is_stored(database: str, encoding: str) -> None:
    client = _client(database)
    client.command("create table numbers_of_a_test (number UInt64) engine = MergeTree order by number")
    parts = [
        COMPRESS[encoding](b"".join(b"%d\n" % number for number in some)) for some in (range(999), range(999, 2000))
    ]
    whole = b"".join(parts)
    for cut in (len(parts[0]) // 2, len(parts[0]) + 1, len(whole) - 1):
        status, answer = _insert(database, encoding, whole[:cut])
        assert (status, f"ends within the {encoding}" in answer) == (400, True), answer
        assert _numbers(client) == 0
    assert _insert(database, encoding, whole) == (200, "")
    assert _numbers(client) == 2000
    client.close()


def test_an_unknown_encoding_is_named(database: str) -> None:
    status, answer = _insert(database, "br", b"x")
    assert (status, "Content-Encoding 'br' is not supported: use lz4, zstd, gzip, deflate or none" in answer) == (
        400,
        True,
    )


def _insert(database: str, encoding: str, body: bytes) -> tuple[int, str]:
    parts = urlsplit(database)
    query = quote("insert into numbers_of_a_test format TabSeparated")
    connection = http.client.HTTPConnection("127.0.0.1", parts.port or 0, timeout=30)
    headers = {"Content-Encoding": encoding, "X-ClickHouse-User": "default", "X-ClickHouse-Key": parts.password or ""}
    connection.request("POST", f"/?database={parts.path[1:]}&query={query}", body, headers)
    answer = connection.getresponse()
    said = answer.status, answer.read().decode()
    connection.close()
    return said
