"""The relation message_states with a real PostgreSQL: at any time it equals a count of all deliveries, whoever wrote them."""

import asyncio
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.records import DeliveryState, Status
from sinks.migrate import DDL, migrate_postgres
from sinks.postgres import PostgresArchive
from tests.support.sink_databases import T0, postgres_database, rows, state

STATUSES = tuple(Status)


async def write(archive: PostgresArchive, states: list[DeliveryState], partition: int = 0) -> None:
    source = ("delivery-states", partition)
    at = (await archive.positions([source]))[source]
    await archive.write(messages=[], states=states, offsets={source: (at, at + len(states))})


def wrong(url: str) -> list[tuple[Any, ...]]:
    """Rows of message_states that a count of the deliveries does not have, and the other way round."""
    return rows(
        url,
        "(select * from message_states except select * from counted_message_states)"
        " union all (select * from counted_message_states except select * from message_states)",
    )


def of_one(n: int, version: int, **changes: Any) -> DeliveryState:
    """A transition of delivery `n` of message m: all deliveries of a message have the time at which it was accepted."""
    return state(n, version, **({"message_id": "m", "accepted_at": T0} | changes))


def transition(delivery: int, version: int, status: Status) -> DeliveryState:
    """A transition of one of the deliveries of a few messages: three to a message, and one message id in two conversations."""
    message = delivery // 3
    base = of_one(delivery, 1, message_id=f"m{message % 2}", conversation_id=f"c{message}", accepted_at=T0 + message)
    return replace(
        base, event_id=f"e{delivery}-{version}", version=version, status=status, observed_at=10_000 + version
    )


@st.composite
def histories(draw: st.DrawFn) -> list[list[DeliveryState]]:
    """Batches that cut, repeat, mix up and leave out the transitions of up to nine deliveries, which may go to any status."""
    deliveries = range(draw(st.integers(1, 9)))
    all_ = [
        transition(n, version + 1, status)
        for n in deliveries
        for version, status in enumerate(draw(st.lists(st.sampled_from(STATUSES), min_size=1, max_size=5)))
    ]
    return draw(st.lists(st.lists(st.sampled_from(all_), min_size=1, max_size=12), min_size=1, max_size=8))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=histories())
async def test_after_any_batches_the_counts_are_those_of_the_deliveries(
    url: str, batches: list[list[DeliveryState]]
) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("delete from deliveries")
        connection.execute("delete from delivery_events")
    assert rows(url, "select count(*) from message_states") == [(0,)]
    archive = PostgresArchive(url)
    for batch in batches:
        await write(archive, batch)
        assert wrong(url) == []
    await archive.close()
    newest = {
        each.delivery_id: each for each in sorted((s for batch in batches for s in batch), key=lambda s: s.version)
    }
    counted = {(s.conversation_id, s.message_id): [0] * len(STATUSES) for s in newest.values()}
    for each in newest.values():
        counted[each.conversation_id, each.message_id][STATUSES.index(each.status)] += 1
    columns = ", ".join(status.lower() for status in STATUSES)
    found = rows(url, f"select conversation_id, message_id, {columns} from message_states")
    assert {(row[0], row[1]): list(row[2:]) for row in found} == counted


async def test_workers_that_write_the_same_deliveries_at_once_count_each_once(url: str) -> None:
    """Three workers on partitions of their own, with the same new and changed deliveries in another order each."""
    order = random.Random(7)  # noqa: S311  # a reproducible shuffle, no secret
    states = [transition(n, v, STATUSES[v - 1]) for n in range(60) for v in (1, 2, 3, 4)]

    async def work(partition: int, mine: list[DeliveryState]) -> None:
        archive = PostgresArchive(url)
        for first in range(0, len(mine), 20):
            await write(archive, mine[first : first + 20], partition)
        await archive.close()

    await asyncio.gather(*(work(p, sorted(states, key=lambda s: (s.version, s.delivery_id))) for p in range(2)))
    await work(2, order.sample(states, len(states)))
    assert wrong(url) == []
    assert rows(url, "select sum(deliveries), sum(read) from message_states") == [(60, 60)]


async def test_a_receipt_of_a_large_group_updates_one_row(archive: PostgresArchive, url: str) -> None:
    members = [of_one(n, 2, seq=1) for n in range(1000)]
    await write(archive, members)
    with psycopg.connect(url) as connection:
        connection.execute(
            "update deliveries set status = 'READ' where tenant_id = 'default' and delivery_id = 'd7' and accepted_at = to_timestamp(%s)",
            (T0 / 1000,),
        )
        changed = connection.execute(
            "select regexp_replace(relname, '_(other|[0-9_]+)$', ''), sum(n_tup_ins), sum(n_tup_upd), sum(n_tup_del), sum(seq_tup_read)"
            " from pg_stat_xact_user_tables where relname ~ '^(message_states|deliveries)_' group by 1 order by 1"
        ).fetchall()
        assert changed == [("deliveries", 0, 1, 0, 0), ("message_states", 0, 1, 0, 0)]
    await write(archive, [of_one(8, 3, seq=1)])
    assert rows(url, "select deliveries, sent, delivered, read from message_states") == [(1000, 998, 1, 1)]


@pytest.mark.parametrize(
    ("statuses", "words"),
    [
        (["PENDING"], ("none", "none", "none", "none", "PENDING", "PENDING")),
        (["SENT", "READ"], ("all", "some", "some", "none", "READ", "SENT")),
        (["DELIVERED", "READ"], ("all", "all", "some", "none", "READ", "DELIVERED")),
        (["READ", "READ"], ("all", "all", "all", "none", "READ", "READ")),
        (["PENDING", "EXPIRED", "DELIVERED"], ("some", "some", "none", "some", "DELIVERED", "EXPIRED")),
        (["FAILED", "SUPPRESSED"], ("none", "none", "none", "all", "SUPPRESSED", "FAILED")),
        (["CANCELLED", "EXPIRED"], ("none", "none", "none", "all", "CANCELLED", "EXPIRED")),
    ],
)
async def test_the_view_says_all_some_none_best_and_worst(
    archive: PostgresArchive, url: str, statuses: list[str], words: tuple[str, ...]
) -> None:
    await write(archive, [of_one(n, 1, status=Status(each)) for n, each in enumerate(statuses)])
    assert rows(url, "select sent, delivered, read, failed, best, worst from message_roll_ups") == [words]


async def test_a_delivery_keeps_its_message(archive: PostgresArchive, url: str) -> None:
    """Only a forged record would change it; the counts must stay right."""
    await write(archive, [state(1, 1)])
    await write(archive, [state(1, 2, message_id="another", conversation_id="c9")])
    assert rows(url, "select conversation_id, message_id, sent from message_states") == [("c1", "m1", 1)]
    assert wrong(url) == []


async def test_deliveries_deleted_by_hand_leave_the_counts(archive: PostgresArchive, url: str) -> None:
    await write(archive, [of_one(n, 2, message_id=f"m{n // 2}") for n in range(6)])
    with psycopg.connect(url) as connection:
        connection.execute("delete from deliveries where delivery_id in ('d0', 'd2', 'd3')")
    assert wrong(url) == []
    assert rows(url, "select message_id, deliveries from message_states order by 1") == [("m0", 1), ("m2", 2)]


@pytest.mark.parametrize("change", ["sent = sent - 1", "deliveries = 9", "pending = -1, sent = sent + 1"])
async def test_postgresql_takes_no_counts_that_do_not_add_up(archive: PostgresArchive, url: str, change: str) -> None:
    await write(archive, [state(1, 3)])
    with (
        psycopg.connect(url) as connection,
        pytest.raises(psycopg.errors.CheckViolation, match="message_states_add_up"),
    ):
        connection.execute(f"update message_states set {change}".encode())


async def test_the_migration_counts_what_is_there_while_an_older_release_writes(
    postgres_url: str, tmp_path: Path
) -> None:
    """The migration waits for a transaction that has changed deliveries, counts it, and sees what comes afterwards."""
    before = shutil.copytree(DDL / "postgres", tmp_path / "postgres")
    later = sorted(path.name for path in before.glob("*.sql") if path.name >= "0009")
    for name in later:
        (before / name).unlink()
    with postgres_database(postgres_url, migrated=False) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            migrate_postgres(connection, tmp_path)
            connection.execute(SENT_BY_AN_OLDER_RELEASE)
        with psycopg.connect(url) as older:
            older.execute("update deliveries set status = 'READ' where delivery_id = 'd4'")
            migrating = asyncio.create_task(asyncio.to_thread(migrate_all, url))
            await asyncio.sleep(0.3)
            assert not migrating.done()
        assert await migrating == later
        assert rows(url, "select message_id, deliveries, sent, read from message_states order by 1") == [
            ("m0", 3, 3, 0),
            ("m1", 3, 2, 1),
            ("m2", 3, 3, 0),
        ]
        archive = PostgresArchive(url)
        await write(archive, [of_one(1, 3, message_id="m1")])
        await archive.close()
        assert wrong(url) == []
        assert rows(url, "select delivered from message_states where message_id = 'm1'") == [(1,)]


# Nine deliveries of three messages, as they are in the relations of 0001 to 0008.
SENT_BY_AN_OLDER_RELEASE = f"""
    insert into deliveries (tenant_id, delivery_id, event_id, message_id, conversation_id, home_partition, seq, channel, account,
                            recipient, address, version, previous_status, status, cause, occurred_at, observed_at, requested_at,
                            accepted_at, delivered_implied, attempts, resends)
    select 'default', 'd' || n, 'e' || n, 'm' || n % 3, 'c1', 0, n, 'whatsapp', 'a', 'r', 'r', 2, 'PENDING', 'SENT', 'ACCEPTED', at, at, at,
           at, false, 1, 0
      from generate_series(0, 8) as n, to_timestamp({T0} / 1000.0) as at
"""


def migrate_all(url: str) -> list[str]:
    with psycopg.connect(url, autocommit=True) as connection:
        return migrate_postgres(connection)
