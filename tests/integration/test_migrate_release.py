"""Migrations of filled databases of the release before: PostgreSQL at 0009 and ClickHouse at 0005 (tests/support/dumps).

The dumps hold rows of two months and of the year 1970, of three tenants: read, failed, expired and stalled deliveries, a message with two
recipients, a text with NUL, a sequence given twice, cursors, positions of stage archive.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from clickhouse_connect.driver.client import Client

from sinks.clickhouse import ClickHouseFacts, connect
from sinks.history import conversation_messages, timelines
from sinks.migrate import migrate, migrate_postgres, planned, statements
from sinks.migration_files import MigrationRefused, migrations
from sinks.postgres import PostgresArchive
from tests.support.sink_databases import T0, clickhouse_database, postgres_database, rows, sequenced, state

DUMPS = Path(__file__).parents[1] / "support" / "dumps"
NEW = [
    f"{database}/{migration.name}"
    for database, last in (("postgres", "0009"), ("clickhouse", "0005"))
    for migration in migrations(database)
    if migration.name[:4] > last
]
KEPT = {
    "messages": "tenant_id, conversation_id, message_id, seq, direction, text, metadata, content, accepted_at, archived_at",
    "message_conflicts": "tenant_id, conversation_id, message_id, seq, text",
    "deliveries": "tenant_id, delivery_id, message_id, version, status, cause, recipient, address, accepted_at, read_at, stalled_at",
    "delivery_events": "tenant_id, delivery_id, event_id, version, previous_status, status, cause, occurred_at, reason_code",
    "message_states": "tenant_id, conversation_id, message_id, deliveries, pending, sent, delivered, read, failed, expired, changed_at",
    "message_roll_ups": "tenant_id, conversation_id, message_id, deliveries, sent, delivered, read, failed, best, worst",
    "stalled_deliveries": "tenant_id, delivery_id, sent_at, stalled_at",
    "cursors": "tenant_id, conversation_id, member, version, last_delivered_seq, last_read_seq, newest_seq",
    "sink_offsets": "sink, topic, partition, next_offset",
}
# Hours older than their time to live (0006), such as those of 1970, are not made again.
FACTS = {
    "delivery_events": "tenant_id, delivery_id, version, status, cause, accepted_at, occurred_at, reason_code, stalled_at",
    "deliveries final": "tenant_id, delivery_id, version, status, accepted_at, sent_at",
    "stalled_deliveries": "tenant_id, delivery_id, sent_at, stalled_at",
    "(select tenant_id, channel, hour, sum(accepted) as accepted, sum(pending) as pending, sum(sent) as sent, sum(read) as read,"
    " sum(failed) as failed, sum(expired) as expired from deliveries_by_hour where hour >= '2000-01-01' group by all)": "*",
}


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[str]:
    with postgres_database(postgres_url, migrated=False) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute((DUMPS / "postgres_0009.sql").read_bytes())
        yield url


@pytest.fixture
def clickhouse(clickhouse_url: str) -> Iterator[str]:
    with clickhouse_database(clickhouse_url, migrated=False) as url:
        client = connect(url)
        for statement in statements((DUMPS / "clickhouse_0005.sql").read_text(encoding="utf-8")):
            client.command(statement)
        client.close()
        yield url


def archived(url: str) -> dict[str, list[tuple[object, ...]]]:
    return {name: sorted(rows(url, f"select {columns} from {name}"), key=repr) for name, columns in KEPT.items()}


def facts(client: Client) -> dict[str, list[object]]:
    return {
        name: sorted(map(tuple, client.query(f"select {columns} from {name}").result_rows), key=repr)
        for name, columns in FACTS.items()
    }


async def test_a_filled_database_of_the_release_before_is_migrated_and_written(postgres: str, clickhouse: str) -> None:
    client = connect(clickhouse)
    before, facts_before = archived(postgres), facts(client)
    assert all(before.values())
    assert all(facts_before.values())

    assert planned(postgres, clickhouse) == NEW
    assert (archived(postgres), facts(client)) == (before, facts_before)
    assert migrate(postgres, clickhouse) == NEW
    assert archived(postgres) == before
    assert facts(client) == facts_before
    assert planned(postgres, clickhouse) == []

    # Every row is in the partition of its month, and the year 1970 in the one for all others.
    partitions = [
        name for [name] in rows(postgres, "select distinct tableoid::regclass::text from messages order by 1")
    ]
    assert partitions == ["messages_2026_09", "messages_2026_10", "messages_other"]
    assert rows(postgres, "select * from message_states except select * from counted_message_states") == []
    assert rows(postgres, "select count(*) from pg_class where relname like 'old\\_%'") == [(0,)]
    assert rows(postgres, "select delivery_id from delivery_events except select delivery_id from deliveries") == []
    with psycopg.connect(postgres) as connection:
        found = conversation_messages(connection, "o.brien", "c-2")
        assert [message.text for message in found.items] == ["NUL \x00 and \u2400"] * 2
        [timeline] = timelines(connection, "m1")
        assert [trail.delivery["status"] for trail in timeline.trails] == ["READ", "READ"]

    # What came before goes on: a delivery of the release before gets its receipt, a new message is stored and counted.
    archive = PostgresArchive(postgres)
    at = (await archive.positions([("t", 0)]))["t", 0]
    moved = state(
        20,
        4,
        tenant_id="acme",
        delivery_id="d12-0",
        message_id="m12",
        accepted_at=T0 + 30 * 86_400_000 + 12_005,
        observed_at=T0 + 31 * 86_400_000,
    )
    await archive.write(messages=[sequenced(20)], states=[state(20), moved], offsets={("t", 0): (at, at + 1)})
    await archive.close()
    sink = ClickHouseFacts(clickhouse)
    await sink.insert("new", [state(20)])
    await sink.close()
    client.command("optimize table deliveries final")
    assert rows(postgres, "select version, status from deliveries where delivery_id = 'd12-0'") == [(4, "READ")]
    assert rows(postgres, "select pending from message_states where message_id = 'm20'") == [(1,)]
    assert rows(postgres, "select * from message_states except select * from counted_message_states") == []
    assert client.query("select count() from delivery_events where delivery_id = 'd20'").result_rows == [(1,)]
    client.close()


def test_a_migrated_database_has_what_a_new_one_has(postgres: str, postgres_url: str) -> None:
    """Columns, constraints, triggers, indexes, views and functions, by their definitions; the months differ, because rows are in them."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        migrate_postgres(connection)
    with postgres_database(postgres_url) as new:
        assert made_of(postgres) == made_of(new)


def made_of(url: str) -> list[tuple[object, ...]]:
    """Everything in schema public, except the months (their names end in _YYYY_MM) and what belongs to an extension."""
    return [
        (part, *row)
        for part, query in {
            "column": "select table_name, column_name, data_type, is_nullable, column_default from information_schema.columns"
            " where table_schema = 'public' and table_name !~ '_[0-9]{4}_[0-9]{2}$'",
            "constraint": "select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint"
            " where contype <> 'n' and connamespace = 'public'::regnamespace and conrelid::regclass::text !~ '_[0-9]{4}_[0-9]{2}$'",
            "trigger": "select tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) from pg_trigger where not tgisinternal"
            " and tgrelid::regclass::text !~ '_[0-9]{4}_[0-9]{2}$'",
            "index": "select indexname, indexdef from pg_indexes where schemaname = 'public'"
            " and tablename !~ '_[0-9]{4}_[0-9]{2}$'",
            "view": "select viewname, definition from pg_views where schemaname = 'public'",
            "function": "select proname, pg_get_functiondef(oid) from pg_proc p where pronamespace = 'public'::regnamespace"
            " and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')",
            "partitioned": "select relname, relkind from pg_class where relkind = 'p'",
            "months": "select p.relname, min(c.reloptions::text), max(c.reloptions::text) from pg_inherits i"
            " join pg_class p on p.oid = i.inhparent join pg_class c on c.oid = i.inhrelid where p.relkind = 'p' group by 1",
        }.items()
        for row in sorted(rows(url, query), key=repr)
    ]


async def test_the_migration_waits_for_what_an_older_release_writes_and_counts_it(postgres: str) -> None:
    with psycopg.connect(postgres) as older:
        older.execute("update deliveries set status = 'READ', version = 5 where delivery_id = 'd7-0'")
        migrating = asyncio.create_task(asyncio.to_thread(migrate_alone, postgres))
        await asyncio.sleep(0.3)
        assert not migrating.done()
    assert await migrating == [name.removeprefix("postgres/") for name in NEW if name.startswith("postgres/")]
    assert rows(postgres, "select status from deliveries where delivery_id = 'd7-0'") == [("READ",)]
    assert rows(postgres, "select pending, read from message_states where message_id = 'm7'") == [(0, 1)]


def migrate_alone(url: str) -> list[str]:
    with psycopg.connect(url, autocommit=True) as connection:
        return migrate_postgres(connection)


def test_it_refuses_to_copy_while_a_sink_is_connected(postgres: str, clickhouse: str) -> None:
    """The temporary relation is what stage archive of every release makes when it connects."""
    with psycopg.connect(postgres, autocommit=True) as sink:
        sink.execute("create temporary table staged_messages (like messages including defaults) on commit delete rows")
        refusal = (
            r"^clickhouse/0006_daily\.sql and postgres/0010_partitions\.sql copy all rows, and a worker of kind sinks is connected "
            rf"\(PostgreSQL session {sink.info.backend_pid}\): stop every worker of kind sinks, then run this again$"
        )
        with pytest.raises(MigrationRefused, match=refusal):
            migrate(postgres, clickhouse)
    assert planned(postgres, clickhouse) == NEW


def test_it_says_what_the_administrator_must_do_before_the_search_can_be_made(
    postgres: str, clickhouse: str, postgres_url: str
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute("create role poor login password 'poor'")
        try:
            with psycopg.connect(postgres, autocommit=True) as connection:
                connection.execute("grant select on applied_migrations to poor")
            poor = f"postgresql://poor:poor@{postgres.partition('@')[2]}"
            database = postgres.rpartition("/")[2]
            refusal = (
                r"^postgres/0011_history\.sql needs the extension unaccent, and role poor may not create it: let an administrator run "
                rf"`create extension unaccent` in database {database} once, then run this again$"
            )
            with pytest.raises(MigrationRefused, match=refusal):
                migrate(poor, clickhouse)
        finally:
            with psycopg.connect(postgres, autocommit=True) as connection:
                connection.execute("drop owned by poor")
            server.execute("drop role poor")
    assert planned(postgres, clickhouse) == NEW
