"""`chat4all check` on real databases that were filled without workers: it finds nothing in equal ones, and names every damage."""

import random
from collections.abc import Iterator, Sequence

import pytest

from cli.check import checks_of
from schemas.retention_days import KEEP_ALL, Retention
from sinks.check_look import CheckedRange, Databases
from sinks.check_result import CheckResult
from sinks.check_run import run_checks
from tests.support.long_runs import LONG
from tests.support.seeded_stores import Stores, seeded_stores

EVERYTHING = CheckedRange()


@pytest.fixture(scope="module")
def whole(postgres_url: str, clickhouse_url: str) -> Iterator[Stores]:
    """Equal databases, for tests that only read."""
    with seeded_stores(postgres_url, clickhouse_url) as stores:
        yield stores


def checked(
    stores: Stores, scope: CheckedRange = EVERYTHING, behind: str = "", retention: Retention = KEEP_ALL
) -> list[CheckResult]:
    """All results. The sinks have passed everything, unless `behind` says otherwise."""
    databases = Databases(stores.postgres, stores.clickhouse, 60)
    _, checks = checks_of(databases, scope, retention)
    return run_checks(checks, databases, lambda: behind)[0]


def wrong(results: Sequence[CheckResult]) -> dict[str, list[str]]:
    """Check -> the ids and sentences of what differs."""
    return {each.name: [f"{' '.join(d.key)}: {d.said}" for d in each.shown] for each in results if each.total}


def test_equal_databases_have_no_difference(whole: Stores) -> None:
    results = checked(whole)
    assert wrong(results) == {}
    numbers = {each.name: int(each.compared.split()[0]) for each in results}
    events = [each for each in whole.states if each.kind != "typing"]
    assert numbers["deliveries"] == numbers["accepted"] == len(whole.messages) - 1
    assert numbers["transitions"] == len(events)
    assert numbers["versions"] == len(whole.states)
    assert numbers["sequences"] == len(whole.messages)
    assert numbers["attempts"] == sum(each.attempt > 0 for each in events)
    assert min(numbers[name] for name in ("deliveries_by_minute", "deliveries_by_hour", "accepted_by_minute")) > 10


def test_a_tenant_and_a_range_limit_what_is_compared(whole: Stores) -> None:
    of_tenant = [each for each in whole.messages if each.tenant_id == "o'hara"]
    since, until = of_tenant[3].accepted_at, of_tenant[7].accepted_at
    results = checked(whole, CheckedRange(since, until, "o'hara"))
    assert wrong(results) == {}
    numbers = {each.name: int(each.compared.split()[0]) for each in results}
    assert (numbers["deliveries"], numbers["message counts"], numbers["sequences"]) == (4, 4, len(of_tenant))


def test_what_retention_deletes_is_no_difference(postgres_url: str, clickhouse_url: str) -> None:
    """One tenant's rows are kept for a day. What is older may be gone from one database and not yet from the other."""
    with seeded_stores(postgres_url, clickhouse_url) as stores:
        old = "tenant_id = 'o''hara' and accepted_at < now() - interval '1 day'"
        stores.run(
            *(f"delete from {relation} where {old}" for relation in ("messages", "deliveries", "delivery_events"))
        )
        assert wrong(checked(stores)) != {}
        assert wrong(checked(stores, retention=Retention(None, {"o'hara": 1}))) == {}


# A message that a second partition has too, which no key of PostgreSQL can see.
AGAIN = """
    insert into messages (tenant_id, message_id, conversation_id, home_partition, seq, direction, sender, kind, text, metadata,
                          requested_at, accepted_at)
    select tenant_id, message_id, conversation_id, home_partition, seq, direction, sender, kind, text, metadata, requested_at, '1971-01-01'
      from messages where message_id = 'm-o''hara-c1-11'
"""
# What is done to one of the stores, and what the checks must say: check -> ids.
IN_POSTGRES: dict[str, dict[str, set[str]]] = {
    "delete from deliveries where delivery_id = 'd-default-c1-2'": {
        "deliveries": {"default d-default-c1-2"},
        "versions": {"default d-default-c1-2"},
    },
    "delete from delivery_events where event_id = 'e-default-c1-3-2'": {
        "transitions": {"default d-default-c1-3 2"},
        "versions": {"default d-default-c1-3"},
    },
    "update deliveries set status = 'READ' where delivery_id = 'd-default-c1-6'": {
        "deliveries": {"default d-default-c1-6"},
        "versions": {"default d-default-c1-6"},
    },
    "update delivery_events set status = 'FAILED' where event_id = 'e-default-c1-7-2'": {
        "transitions": {"default d-default-c1-7 2"},
    },
    "update deliveries set sent_at = sent_at + interval '1 ms' where delivery_id = 'd-default-c1-9'": {
        "deliveries": {"default d-default-c1-9"},
    },
    "delete from messages where tenant_id = 'default' and conversation_id = 'c2' and seq = 4": {
        "sequences": {"default c2 5"},
        "orphans": {"default d-default-c2-4"},
    },
    "delete from messages where tenant_id = 'default' and conversation_id = 'c2' and seq = 1": {
        "sequences": {"default c2 2"},
        "orphans": {"default d-default-c2-1"},
    },
    "update messages set seq = 9 where tenant_id = 'default' and conversation_id = 'c2' and seq = 8": {
        "sequences": {"default c2 9"},
    },
    "delete from messages where conversation_id = 'c3'": {
        "sequences": {"default c3 0"},
        "orphans": {"default d-default-c3-1"},
    },
    AGAIN: {"ids": {"o'hara c1 m-o'hara-c1-11"}, "sequences": {"o'hara c1 11"}},
    "update message_states set sent = sent - 1, read = read + 1 where message_id = 'm-o''hara-c1-1'": {
        "message counts": {"o'hara c1 m-o'hara-c1-1"},
    },
    "alter table cursors drop constraint cursors_in_order": {},
    "update cursors set last_read_seq = 3 where tenant_id = 'o''hara'": {"cursors": {"o'hara c1 15551234567"}},
    "update cursors set last_delivered_seq = 12 where tenant_id = 'default' and conversation_id = 'c1'": {
        "open before cursor": {f"default c1 15551234567 d-default-c1-{n}" for n in (4, 8, 9, 12)},
    },
    "update cursors set newest_seq = 99 where tenant_id = 'default' and conversation_id = 'c2'": {
        "cursors": {"default c2 15551234567"},
    },
    "insert into message_conflicts select * from messages where message_id = 'm-o''hara-c1-2'": {
        "conflicts": {"o'hara c1 m-o'hara-c1-2"},
    },
}


IN_CLICKHOUSE: dict[str, dict[str, set[str]]] = {
    "alter table deliveries delete where delivery_id = 'd-default-c1-2'": {"deliveries": {"default d-default-c1-2"}},
    "alter table deliveries update status = 'READ' where delivery_id = 'd-default-c1-10'": {
        "deliveries": {"default d-default-c1-10"}
    },
    "alter table attempts delete where delivery_id = 'd-default-c1-3'": {"attempts": {"default d-default-c1-3 2"}},
    "alter table delivery_events update observed_at = observed_at + 1 where delivery_id = 'd-default-c2-3' and version = 4": {
        "transitions": {"default d-default-c2-3 4"}
    },
    # also what the view counts of it: a minute that has one delivery more than the log
    "alter table accepted_deliveries delete where delivery_id = 'd-default-c2-9'": {
        "accepted": {"default d-default-c2-9 1"}
    },
    "insert into accepted_deliveries select * replace('strange' as delivery_id)"
    " from (select * from accepted_deliveries where delivery_id = 'd-default-c2-6')": {
        "accepted": {"default strange 1"}
    },
}


def ids(results: Sequence[CheckResult]) -> dict[str, set[str]]:
    return {each.name: {" ".join(d.key) for d in each.shown} for each in results if each.total}


def minute_of(stores: Stores, delivery: str) -> str:
    """The minute of a delivery, as ClickHouse writes it."""
    with stores.client() as client:
        found = client.query(
            f"select toString(toStartOfMinute(accepted_at)) from deliveries final where delivery_id = '{delivery}'"
        )
    return str(found.result_rows[0][0])


def expected(*damages: dict[str, dict[str, set[str]]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for each in (named for damage in damages for named in damage.values()):
        for name, keys in each.items():
            found.setdefault(name, set()).update(keys)
    return found


def test_every_damage_in_postgresql_is_named(postgres_url: str, clickhouse_url: str) -> None:
    """All at once, on rows of their own, and nothing else is named."""
    with seeded_stores(postgres_url, clickhouse_url) as stores:
        stores.run(*IN_POSTGRES)
        assert ids(checked(stores)) == expected(IN_POSTGRES)


def test_every_damage_in_clickhouse_is_named(postgres_url: str, clickhouse_url: str) -> None:
    with seeded_stores(postgres_url, clickhouse_url) as stores:
        changed, dead, hour = (minute_of(stores, f"d-default-c1-{n}") for n in (1, 6, 11))
        shorter = minute_of(stores, "d-default-c2-9")
        channel = "tenant_id = 'default' and channel"
        stores.command(
            *IN_CLICKHOUSE,
            f"alter table deliveries_by_minute update read = read + 1 where {channel} = 'telegram' and minute = '{changed}'",
            f"alter table deliveries_by_minute delete where {channel} = 'whatsapp' and minute = '{dead}'",
            f"alter table deliveries_by_hour update accept_to_sent_max_ms = 7 where {channel} = 'instagram'"
            f" and hour = toStartOfHour(toDateTime('{hour}'))",
            f"alter table accepted_by_minute update accepted = 5 where {channel} = 'telegram' and minute = '{changed}'",
        )
        results = checked(stores)
        assert ids(results) == expected(IN_CLICKHOUSE) | {
            "deliveries_by_minute": {f"default telegram a {changed}", f"default whatsapp a {dead}"},
            "deliveries_by_hour": {f"default instagram a {hour[:14]}00:00"},
            "accepted_by_minute": {f"default telegram {changed}", f"default whatsapp {shorter}"},
        }
        assert "read 1 instead of 0" in " ".join(wrong(results)["deliveries_by_minute"])


# One random delivery each: what is done to it, and the check that must name it.
ANY_DAMAGE = {
    ("postgres", "delete from deliveries where delivery_id = '{}'"): "deliveries",
    ("postgres", "delete from delivery_events where delivery_id = '{}' and version = 1"): "transitions",
    ("postgres", "update deliveries set status = 'CANCELLED' where delivery_id = '{}'"): "deliveries",
    ("postgres", "update deliveries set version = version + 1 where delivery_id = '{}'"): "versions",
    ("clickhouse", "alter table deliveries delete where delivery_id = '{}'"): "deliveries",
    ("clickhouse", "alter table delivery_events delete where delivery_id = '{}'"): "transitions",
    (
        "clickhouse",
        "alter table delivery_events update occurred_at = occurred_at + 1 where delivery_id = '{}'",
    ): "transitions",
    ("clickhouse", "alter table accepted_deliveries delete where delivery_id = '{}'"): "accepted",
}


@pytest.mark.parametrize("seed", range(20 if LONG else 1))
def test_whatever_is_damaged_is_named(postgres_url: str, clickhouse_url: str, seed: int) -> None:
    """Each kind of damage to a random delivery; a delivery gets one damage. What was not damaged is not named."""
    draw = random.Random(seed)  # noqa: S311  # reproducible damage, no secret
    with seeded_stores(postgres_url, clickhouse_url) as stores:
        victims = draw.sample(
            sorted({each.delivery_id for each in stores.states if each.kind != "typing"}), len(ANY_DAMAGE)
        )
        quoted = [victim.replace("'", "''") for victim in victims]
        damage = list(zip(ANY_DAMAGE.items(), victims, quoted, strict=True))
        stores.run(*(statement.format(name) for ((store, statement), _), _, name in damage if store == "postgres"))
        stores.command(
            *(statement.format(name) for ((store, statement), _), _, name in damage if store == "clickhouse")
        )
        found = {check: {key.split()[1] for key in keys} for check, keys in ids(checked(stores)).items()}
    for (_, check), victim, _ in damage:
        assert victim in found[check], (check, victim)
    rows = ("deliveries", "transitions", "versions", "accepted", "attempts", "sequences", "ids")
    assert set().union(*(found.get(name, set()) for name in rows)) <= set(victims)
