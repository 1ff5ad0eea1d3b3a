"""Every report on a real ClickHouse against a slow, obvious reference in Python (tests/support/report_reference.py)."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from connectors.registry import OBSERVED
from sinks.clickhouse import connect
from sinks.report_catalog import reports
from sinks.report_queries import LIMITS, OBJECTIVE, Question, ask, call
from tests.support.report_reference import Asked, Row
from tests.support.report_reference_more import ALL
from tests.support.report_seed import BASE, DAY, HOUR, MINUTE, World, seeded
from tests.support.sink_databases import clickhouse_database

WORLD = seeded(1)


@pytest.fixture(scope="module")
def client(clickhouse_url: str) -> Iterator[Client]:
    with clickhouse_database(clickhouse_url) as url:
        client = connect(url)
        WORLD.insert(client, random.Random(2))  # noqa: S311  # a reproducible order, no secret
        yield client
        client.close()


def answer(client: Client, name: str, asked: Asked) -> list[Row]:
    """The rows of the view, as it is called with exactly these bounds; times as Unix milliseconds."""
    question = Question(
        _time(asked.since), _time(asked.until), asked.tenant, asked.channel, asked.account, asked.worst_n, asked.label
    )
    sql = call(reports()[name], question)
    rows = client.query(sql).named_results()
    return [{key: _plain(value) for key, value in row.items()} for row in rows]


def _time(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1000, UTC)


def _plain(value: Any) -> Any:
    return round(value.timestamp() * 1000) if isinstance(value, datetime) else value


def same(found: list[Row], wanted: list[Row]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert list(one) == list(other)
        for column, value in other.items():
            is_share = isinstance(value, float)
            assert one[column] == (pytest.approx(value) if is_share else value), (column, one, other)


ASKED = {
    "all": Asked(),
    "a tenant with a quote in its name": Asked(tenant="o'brien"),
    "an account": Asked(tenant="acme", channel="whatsapp", account="whatsapp-1"),
    "from a delivery's millisecond": Asked(since=BASE + DAY, until=BASE + 2 * DAY),
    "to a delivery's millisecond": Asked(since=BASE + DAY - 1, until=BASE + 2 * DAY - 1),
    "odd bounds": Asked(
        since=BASE + 5 * HOUR + 17 * MINUTE + 1234, until=BASE + 71 * HOUR + 3 * MINUTE + 1, worst_n=3, label="o'clock"
    ),
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=list(ASKED))
@pytest.mark.parametrize("name", reports())
def test_a_report_is_what_a_loop_over_the_rows_finds(client: Client, name: str, asked: Asked) -> None:
    found = answer(client, name, asked)
    same(found, ALL[name](WORLD, asked))
    assert found or asked != Asked(), "a report without rows tests nothing"
