"""Replays between real databases without Kafka: an empty ClickHouse from PostgreSQL, missing rows only, and roll-ups made again."""

import asyncio

import pytest

from cli.check import checks_of
from schemas.retention_days import KEEP_ALL
from sinks.check_look import CheckedRange, Databases
from sinks.check_run import run_checks
from sinks.clickhouse import ClickHouseFacts
from sinks.fact_tables import ACCEPTED, EVENTS
from sinks.replay_facts import AnotherReplay, MissingFacts, alone, snapshot, timelines_in
from sinks.replay_totals import Hours, hours_of_facts, make_again
from sinks.store_sums import Sums, clickhouse_sums
from tests.support.seeded_stores import Stores, seeded_stores

ALL = CheckedRange()


def replayed(stores: Stores, run: str) -> dict[str, int]:
    """From PostgreSQL; the rows that were inserted, by relation."""

    async def insert() -> dict[str, int]:
        facts = ClickHouseFacts(stores.clickhouse)
        with stores.client() as client, snapshot(stores.postgres) as connection:
            missing = MissingFacts(client, facts, run)
            for states, accepted in timelines_in(connection, ALL):
                await missing.add(EVENTS, states)
                await missing.add(ACCEPTED, [accepted])
            await missing.finish()
        await facts.close()
        return dict(missing.inserted)

    return asyncio.run(insert())


def sums(stores: Stores) -> Sums:
    with Databases(stores.postgres, stores.clickhouse, 60).look() as look:
        return clickhouse_sums(look, ALL)


def differing(stores: Stores) -> set[str]:
    databases = Databases(stores.postgres, stores.clickhouse, 60)
    _, checks = checks_of(databases, ALL, KEEP_ALL)
    return {each.name for each in run_checks(checks, databases, str)[0] if each.total}


def test_clickhouse_is_rebuilt_from_postgresql_and_then_nothing_changes(postgres_url: str, clickhouse_url: str) -> None:
    """The same rows come from PostgreSQL as from the records. What is deleted again after a replay comes back again."""
    with seeded_stores(postgres_url, clickhouse_url) as stores:
        from_records = sums(stores)
        assert replayed(stores, "first") == {EVENTS.name: 0, ACCEPTED.name: 0}
        assert sums(stores) == from_records
        relations = ("delivery_events", "deliveries", "attempts", "accepted_deliveries")
        totals = ("deliveries_by_minute", "deliveries_by_hour", "accepted_by_minute")
        for run in ("second", "third"):
            stores.command(*(f"truncate table {name}" for name in (*relations, *totals)))
            events = sum(each.kind != "typing" for each in stores.states)
            assert replayed(stores, run) == {EVENTS.name: events, ACCEPTED.name: len(stores.messages) - 1}
            assert sums(stores) == from_records
        assert differing(stores) == set()


def test_roll_ups_are_made_again_from_the_facts(postgres_url: str, clickhouse_url: str) -> None:
    """After rows were deleted and replayed, which the roll-ups had counted; after totals were changed; in a part of the hours only."""
    with seeded_stores(postgres_url, clickhouse_url) as stores:
        right = sums(stores)
        stores.command(
            "alter table delivery_events delete where delivery_id = 'd-default-c1-7'",
            "alter table attempts delete where 1",
            "alter table deliveries update status = 'READ' where 1",
        )
        assert replayed(stores, "again")[EVENTS.name] == 4
        assert differing(stores) == {"deliveries", "attempts", "deliveries_by_minute", "deliveries_by_hour"}
        with stores.client() as client, Databases(stores.postgres, stores.clickhouse, 60).look() as look:
            hours = hours_of_facts(client, Hours.around(0, 4_000_000_000_000))
            assert hours.until - hours.since <= 4 * 3_600_000
            for _ in range(2):  # a repetition inserts the same blocks again
                make_again(look, client, hours)
                assert sums(stores) == right
        assert differing(stores) == set()


def test_two_replays_do_not_run_at_once(postgres_url: str) -> None:
    with alone(postgres_url), pytest.raises(AnotherReplay, match="another replay runs"), alone(postgres_url):
        pass
    with alone(postgres_url):
        pass
