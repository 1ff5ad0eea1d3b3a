"""Migration 0006 of ClickHouse on a database that the release before has filled: nothing is lost, whenever it is interrupted."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
from clickhouse_connect.driver.client import Client

from schemas.records import DeliveryState
from sinks.clickhouse import connect
from sinks.fact_tables import EVENTS, columns
from sinks.migrate import DDL, migrate_clickhouse, statements
from tests.support.fact_partition import FactPartition
from tests.support.fact_reference import differences
from tests.support.long_runs import LONG
from tests.support.sink_databases import T0, clickhouse_database, keep_old_roll_ups, state

FILE = "0006_daily.sql"
DAY = 86_400_000
# The columns that 0001 to 0005 know.
FORMER = [*list(EVENTS.columns)[: list(EVENTS.columns).index("stalled_at") + 1]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The migrations of the release before."""
    copytree(DDL, tmp_path / "ddl")
    for each in sorted((tmp_path / "ddl" / "clickhouse").glob("*.sql")):
        if each.name >= FILE:
            each.unlink()
    return tmp_path / "ddl"


def former_states() -> list[DeliveryState]:
    """Deliveries of three days, of which some were never sent; without what an attempt needs."""
    states = []
    for n in range(12):
        accepted = T0 + n * DAY // 4
        for version in range(1, 5 - n % 4):
            each = state(n, version, accepted_at=accepted, sent_at=accepted + 7 * n if version > 1 else None)
            states.append(replace(each, delivered_at=accepted + 900 * n if version > 2 else None))
    return states


def fill(client: Client, states: Sequence[DeliveryState]) -> None:
    """As stage analyse of the release before did."""
    values = dict(zip(EVENTS.columns, columns(EVENTS, states), strict=True))
    client.insert(
        "delivery_events",
        [values[name] for name in FORMER],
        column_names=FORMER,
        column_type_names=[EVENTS.columns[name] for name in FORMER],
        column_oriented=True,
        settings={"insert_deduplication_token": "former", "max_partitions_per_insert_block": 0},
    )


@pytest.fixture
def filled(clickhouse_url: str, folder: Path) -> Iterator[tuple[str, Client]]:
    with clickhouse_database(clickhouse_url, migrated=False) as url:
        client = connect(url)
        migrate_clickhouse(client, folder)
        fill(client, former_states())
        yield url, client
        client.close()


def check(client: Client) -> None:
    assert differences(client, former_states()) == []
    assert client.query("select count() from attempts").result_rows == [(0,)], "what they were is not in the facts"
    assert client.query("select uniqExact(batch), max(kind) from delivery_events").result_rows == [(1, "text")]


async def test_rows_and_roll_ups_are_those_of_the_release_before(filled: tuple[str, Client]) -> None:
    """Also a batch of the release before that is repeated after the migration adds nothing."""
    url, client = filled
    assert FILE in migrate_clickhouse(client)
    keep_old_roll_ups(client)
    check(client)
    partition = FactPartition(url, former_states(), turn=1000)
    partition.desk.changelog["plans"][b"delivery-states"] = b'{"ranges":[[0,9],[10,%d]]}' % (len(former_states()) - 1)
    await partition.crash(url)
    await partition.finish(T0)
    await partition.sink.close()
    check(client)


def test_an_interrupted_migration_starts_again_and_ends_the_same(filled: tuple[str, Client]) -> None:
    """One database, in which the file is interrupted again and again: in a long run after each statement, else where a relation has just
    been exchanged and its predecessor is still there."""
    _, client = filled
    parts = statements((DDL / "clickhouse" / FILE).read_text(encoding="utf-8"))
    for n in range(len(parts)):
        if LONG or parts[n].startswith("exchange"):
            for statement in parts[: n + 1]:
                client.command(statement)
    assert FILE in migrate_clickhouse(client)
    keep_old_roll_ups(client)
    check(client)
