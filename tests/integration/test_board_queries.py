"""Every ClickHouse query of the boards, and of their variables, on the real ClickHouse: empty, and with deliveries of two tenants."""

import json
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from sinks.clickhouse import connect
from tests.support.grafana_sql import ALL, sent
from tests.support.sink_databases import clickhouse_database
from tools.boards import BOARDS, DASHBOARDS

NOW = time.time_ns() // 1_000_000
HOUR = 3_600_000
EVERYTHING = {"tenant": ALL, "channel": ALL, "account": ALL, "conversation": "c1"}
QUOTED = "o'neil"  # a tenant with a quote in its name
NOBODY = EVERYTHING | {"tenant": "nobody", "conversation": "c0"}
# What says nothing about deliveries.
OF_THE_SERVER = {
    "Bytes an event",
    "Bytes of all relations",
    "Parts of the fullest partition",
    "Newest transition",
    "Relations",
}

SEED = """
insert into accepted_deliveries
    (tenant_id, channel, account, delivery_id, message_id, conversation_id, kind, accepted_at)
select ['acme', 'o\\'neil'][number % 2 + 1], 'whatsapp', 'a', concat('d', toString(number)), concat('m', toString(number)),
    'c1', 'text',
    fromUnixTimestamp64Milli({now} - 1800000 + number * 1000) from numbers(100);
insert into delivery_events
    (tenant_id, delivery_id, message_id, conversation_id, seq, channel, account, version, previous_status, status, cause,
    occurred_at, observed_at, requested_at, accepted_at, dispatched_at, first_dispatched_at, ready_at, sent_at, attempts,
    attempt, reason_code)
select ['acme', 'o\\'neil'][number % 2 + 1], concat('d', toString(number)), concat('m', toString(number)), 'c1', number,
    'whatsapp', 'a', version, 'PENDING', if(version = 1, 'PENDING', 'SENT'), if(version = 1, 'CREATED', 'ACCEPTED'),
    accepted + took, accepted + took, accepted,
    accepted, if(version = 1, null, accepted + half), if(version = 1, null, accepted + half), if(version = 1, null, accepted + 1),
    if(version = 1, null, accepted + took), version - 1, version - 1, ''
from (
    select number, arrayJoin([1, 2]) as version, fromUnixTimestamp64Milli({now} - 1800000 + number * 1000) as accepted,
        toIntervalMillisecond(if(version = 1, 0, 20 * number)) as took, toIntervalMillisecond(10 * number) as half from numbers(100)
);
insert into inbound_events (tenant_id, channel, account, message_id, conversation_id, kind, received_at, accepted_at)
select 'acme', 'whatsapp', 'a', 'i1', 'c1', 'text', fromUnixTimestamp64Milli({now} - 5000), fromUnixTimestamp64Milli({now} - 4000);
insert into dead_letter_events (tenant_id, dead_letter_id, stage, cause, source_topic, channel, refused_at, value_bytes)
select 'acme', 'x1', 'route', 'not_avro', 'messages', '', fromUnixTimestamp64Milli({now} - 5000), 10;
insert into delivery_events
    (tenant_id, delivery_id, message_id, conversation_id, seq, channel, account, version, previous_status, status, cause,
    occurred_at, observed_at, requested_at, accepted_at, sent_at, stalled_at, attempts, attempt, reason_code)
select 'acme', 'd1', 'm1', 'c1', 1, 'whatsapp', 'a', 3, 'SENT', 'SENT', 'STALLED', fromUnixTimestamp64Milli({now} - 1000) as at, at,
    fromUnixTimestamp64Milli({now} - 1799000) as accepted, accepted, accepted, at, 1, 0, ''
"""


def queries() -> Iterator[tuple[str, str, str]]:
    """The board and its panel or variable, the shape of the answer, the SQL."""
    for name in BOARDS:
        board = json.loads((DASHBOARDS / f"grafana/{name}.json").read_text(encoding="utf-8"))
        for each in board["templating"]["list"]:
            if each["type"] == "query":
                yield f"{name}: ${each['name']}", "table", each["query"]["rawSql"]
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                if "rawSql" in target:
                    yield f"{name}: {panel['title']}", target["queryType"], target["rawSql"]


QUERIES = list(queries())


@pytest.fixture(scope="module")
def empty(clickhouse_url: str) -> Iterator[Client]:
    with clickhouse_database(clickhouse_url) as url:
        client = connect(url)
        yield client
        client.close()


@pytest.fixture(scope="module")
def seeded(clickhouse_url: str) -> Iterator[Client]:
    with clickhouse_database(clickhouse_url) as url:
        client = connect(url)
        for statement in SEED.format(now=NOW).split(";\n"):
            client.command(statement.strip())
        yield client
        client.close()


def answer(client: Client, sql: str, chosen: Mapping[str, str]) -> tuple[tuple[str, ...], list[Any]]:
    found = client.query(sent(sql, NOW - 6 * HOUR, NOW + HOUR, chosen))
    return found.column_names, list(found.result_rows)


def test_every_query_runs_on_an_empty_database(empty: Client) -> None:
    for where, _, sql in QUERIES:
        _, rows = answer(empty, sql, EVERYTHING)
        if where.split(": ")[1] in OF_THE_SERVER:  # the relation of applied migrations has rows
            continue
        assert all(value is None or value == 0 for row in rows for value in row), where


def test_every_query_shows_what_is_there(seeded: Client) -> None:
    for where, shape, sql in QUERIES:
        columns, rows = answer(seeded, sql, EVERYTHING)
        assert rows, where
        assert len(set(columns)) == len(columns), where
        if shape == "timeseries":
            assert all(isinstance(row[0], datetime) for row in rows), where
            assert {value for row in rows for value in row[1:]} != {None}, where


@pytest.mark.parametrize("tenant", [QUOTED, "acme"])
def test_a_choice_shows_its_own_rows_only(seeded: Client, tenant: str) -> None:
    """Also of a tenant with a quote in its name."""
    chosen = EVERYTHING | {"tenant": tenant, "channel": "whatsapp", "account": "a"}
    shown = set()
    for where, _, sql in QUERIES:
        if "$tenant" in where:
            continue
        columns, rows = answer(seeded, sql, chosen)
        for name in ("tenant", "tenant_id"):
            if name in columns:
                assert {row[columns.index(name)] for row in rows} <= {tenant}, where
                shown |= {where} if rows else set()
    assert {"overview: Deliveries by tenant and channel", "overview: The slowest deliveries"} <= shown


def test_another_choice_shows_nothing(seeded: Client) -> None:
    for where, _, sql in QUERIES:
        if where.split(": ")[1] in OF_THE_SERVER or ": $" in where:
            continue
        _, rows = answer(seeded, sql, NOBODY)
        assert all(value is None for row in rows for value in row), where


def test_the_figures_are_right(seeded: Client) -> None:
    by_title = {where: sql for where, _, sql in QUERIES}
    _, ((p95,),) = answer(seeded, by_title["overview: Accepted to sent, p95"], EVERYTHING)
    assert p95 == pytest.approx(20 * 94, rel=0.02)
    columns, rows = answer(seeded, by_title["overview: Deliveries by tenant and channel"], EVERYTHING)
    assert {(row[0], row[columns.index("n_accepted")], row[columns.index("n_sent")]) for row in rows} == {
        ("acme", 50, 50),
        (QUOTED, 50, 50),
    }
    _, late = answer(seeded, by_title["overview: Error budget, by ClickHouse"], EVERYTHING | {"tenant": QUOTED})
    assert 0 < max(row[1] for row in late) <= 1
