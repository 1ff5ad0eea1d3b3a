"""The facts in a real ClickHouse engine: a repeated batch changes nothing, a delivery counts once, no personal data enters."""

import gc
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from schemas.records import Cause, DeliveryState, Direction, Status
from sinks.clickhouse import COLUMNS, ClickHouseFacts, answered, connect
from sinks.fact_tables import ACCEPTED, INBOUND, FactTable, accepted, batch_of, inbound
from sinks.sink_errors import NotMigrated, Unavailable
from sinks.stored_bytes import event_bytes, stored_bytes
from tests.support.fact_reference import HOUR, MINUTE, STATUSES, differences, in_clickhouse
from tests.support.sink_databases import T0, clickhouse_database, dead_letter, sequenced, state

RELATIONS = ("delivery_events", "deliveries", "attempts", "deliveries_by_minute", "deliveries_by_hour")
OTHERS = ("accepted_deliveries", "accepted_by_minute", "inbound_events", "dead_letter_events")
ADDED = {"batch", "inserted_at"}  # columns that are no field of a record


@pytest.fixture
def url(clickhouse_url: str) -> Iterator[str]:
    with clickhouse_database(clickhouse_url) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    client = connect(url)
    for relation in RELATIONS:
        client.command(f"system stop merges {relation}")
    yield client
    client.close()


@pytest.fixture
async def facts(url: str) -> AsyncIterator[ClickHouseFacts]:
    facts = ClickHouseFacts(url)
    await facts.open()
    yield facts
    await facts.close()


def physical_rows(client: Client) -> dict[str, int]:
    """Physical rows of each relation; `client` has stopped the merges, which would hide duplicates."""
    return {relation: client.query(f"select count() from {relation}").result_rows[0][0] for relation in RELATIONS}


def total(client: Client, columns: str, relation: str = "deliveries_by_hour") -> tuple[Any, ...]:
    return tuple(client.query(f"select {columns} from {relation}").result_rows[0])


def milliseconds(value: Any) -> Any:
    return round(value.timestamp() * 1000) if isinstance(value, datetime) else value


async def test_every_column_comes_back_as_it_was(facts: ClickHouseFacts, client: Client) -> None:
    given = state(1, 4, anomaly="late", reason_code="131026", delivered_implied=True, resends=2, attempts=3, attempt=3)
    given = replace(
        given, stalled_at=T0 + 9, retry_at=T0 + 8, not_before=T0 - 1, ready_at=T0 + 1, first_dispatched_at=T0 + 2
    )
    given = replace(given, throttled=True, throttles=4, reported="READ", fallback_of="d0", kind="image")
    fresh = state(2, 1)
    await facts.insert("t", [given, fresh])
    for relation in ("delivery_events", "deliveries"):
        kept = list(client.query(f"select * from {relation} order by delivery_id").named_results())
        assert [set(row) for row in kept] == [set(COLUMNS) | ADDED] * 2
        for record, row in zip((given, fresh), kept, strict=True):
            assert row["batch"] == batch_of("t")
            for column in set(COLUMNS) - ADDED:
                assert (milliseconds(row[column]) or None) == (getattr(record, column) or None), column


async def test_accepted_deliveries_and_inbound_messages_come_back_as_they_were(
    facts: ClickHouseFacts, client: Client
) -> None:
    rows: list[tuple[FactTable, Any]] = [
        (ACCEPTED, accepted(sequenced(1, metadata={"campaign": "spring"}, not_before=T0 + 7))[0]),
        (
            INBOUND,
            inbound(sequenced(2, direction=Direction.INBOUND, metadata={"channel": "telegram", "account": "b"}))[0],
        ),
    ]
    for table, row in rows:
        for _ in range(2):
            await facts.insert(table.name, [row], table)
        (kept,) = client.query(f"select * from {table.name}").named_results()
        assert set(kept) == set(table.columns) | ADDED
        assert {name: milliseconds(kept[name]) or None for name in row._fields} == {
            name: value or None for name, value in row._asdict().items()
        }
    assert total(client, "channel, toUnixTimestamp(minute), accepted", "accepted_by_minute") == (
        "whatsapp",
        T0 // 60_000 * 60,
        1,
    )


async def test_a_dead_letter_is_one_row_without_its_bytes(facts: ClickHouseFacts, client: Client) -> None:
    letters = [
        dead_letter(1, source_topic="deliveries.telegram"),
        dead_letter(2, source_topic="receipts", key=b"whatsapp:MARK:MARK"),
        dead_letter(3, source_topic="messages", key=b"MARK:MARK", value=None, value_length=5_000_000),
    ]
    await facts.insert_dead_letters([])
    await facts.insert_dead_letters(letters)
    await facts.insert_dead_letters(letters)
    await facts.insert_dead_letters(letters[:1])
    rows = list(client.query("select * from dead_letter_events final order by dead_letter_id").named_results())
    assert "MARK" not in repr(rows)
    assert [(row["dead_letter_id"], row["channel"], row["value_bytes"]) for row in rows] == [
        ("x1", "telegram", 4),
        ("x2", "whatsapp", 4),
        ("x3", "", 5_000_000),
    ]
    assert (rows[0]["stage"], rows[0]["cause"], milliseconds(rows[0]["refused_at"])) == ("route", "not_avro", T0 + 1)


async def test_attempts_are_the_calls_that_ended_and_the_decisions_to_repeat(
    facts: ClickHouseFacts, client: Client
) -> None:
    ends = [
        (Cause.RETRY_LATER, "retry_later", 1),
        (Cause.UNKNOWN, "unknown", 2),
        (Cause.RESENT, "", 2),
        (Cause.EXHAUSTED, "retry_later", 3),
        (Cause.REJECTED, "rejected", 4),
        (Cause.ACCEPTED, "accepted", 5),
    ]
    states = [
        replace(
            state(1, 2, cause=cause, attempt=attempt, occurred_at=T0 + 15 + 50 * n, dispatched_at=T0 + 16),
            version=n + 2,
        )
        for n, (cause, _, attempt) in enumerate(ends)
    ]
    others = [state(1, 1), state(2, 3), state(3, 2, attempt=0), state(4, 3, cause=Cause.STALLED, attempt=1)]
    await facts.insert("t", [*states, *others])
    rows = client.query("select class, attempt, resent, call_ms from attempts order by version").result_rows
    took = [0, 49, None, 149, 199, 249]  # the first ended before its call started: the clocks of two machines
    assert rows == [
        (kind, attempt, cause == Cause.RESENT, ms) for (cause, kind, attempt), ms in zip(ends, took, strict=True)
    ]


async def test_the_same_token_again_changes_neither_facts_nor_views(facts: ClickHouseFacts, client: Client) -> None:
    batches = {f"states-0-{v}": [state(n, v, attempt=1) for n in range(50)] for v in (1, 2, 3, 4)}
    for token, batch in batches.items():
        await facts.insert(token, batch)
    rows = physical_rows(client)
    assert (rows["delivery_events"], rows["attempts"]) == (200, 50)
    for token, batch in batches.items():
        await facts.insert(token, batch)
    again = ClickHouseFacts(facts._url)  # another worker, after a restart
    await again.insert("states-0-1", batches["states-0-1"])
    await again.close()
    assert physical_rows(client) == rows
    assert differences(client, [each for batch in batches.values() for each in batch]) == []


async def test_the_view_of_stalled_deliveries_shows_what_is_stalled_now(facts: ClickHouseFacts, client: Client) -> None:
    stalled = [
        state(n, 3, status=Status.SENT, cause=Cause.STALLED, delivered_at=None, stalled_at=T0 + n) for n in (1, 2)
    ]
    await facts.insert("a", stalled)
    await facts.insert("b", [state(1, 4)])
    found = list(client.query("select * from stalled_deliveries").named_results())
    assert [(row["delivery_id"], round(row["stalled_at"].timestamp() * 1000)) for row in found] == [("d2", T0 + 2)]


async def test_other_tokens_are_other_batches(facts: ClickHouseFacts, client: Client) -> None:
    """The token decides, not the content: the test above would pass too if ClickHouse compared blocks."""
    await facts.insert("a", [state(1)])
    await facts.insert("b", [state(1)])
    assert physical_rows(client)["delivery_events"] == 2
    assert total(client, "count()", "deliveries final") == (1,)
    assert total(client, "sum(accepted)") == (2,)


def lives(order: random.Random) -> list[list[DeliveryState]]:
    """Deliveries with every sequence of statuses that is allowed, each a list of transitions; with times that clocks may give."""
    ways = [
        [Status.PENDING],
        [Status.PENDING, Status.PENDING, Status.SENT],  # a retry explained in between
        [Status.PENDING, Status.SENT, Status.DELIVERED, Status.READ, Status.READ],  # evidence that changed nothing
        [Status.PENDING, Status.DELIVERED, Status.READ],  # overtaken
        [Status.PENDING, Status.READ],
        [Status.PENDING, Status.SENT, Status.FAILED],
        [Status.PENDING, Status.FAILED, Status.DELIVERED],  # positive evidence after a failure
        [Status.PENDING, Status.SENT, Status.FAILED, Status.DELIVERED, Status.READ],
        [Status.PENDING, Status.EXPIRED],
        [Status.PENDING, Status.CANCELLED],
        [Status.SUPPRESSED],
    ]
    return [_life(order, n, order.choice(ways)) for n in range(120)]


def _life(order: random.Random, n: int, way: list[Status]) -> list[DeliveryState]:
    accepted = T0 + n * 60_000
    took = [order.choice((-5, 0, 9, 10, 11, 999, 60_001, 3_600_001, 2**33)) for _ in range(3)]
    fixed = replace(
        state(n),
        tenant_id=order.choice(("default", "o'hara")),
        channel=order.choice(("whatsapp", "telegram")),
        account=order.choice(("a", "b")),
        not_before=order.choice((None, accepted)),
        accepted_at=accepted,
    )
    found: list[DeliveryState] = []
    for i, status in enumerate(way):
        passed = set(way[: i + 1])
        sent, delivered = bool({Status.SENT, Status.DELIVERED} & passed), bool({Status.DELIVERED, Status.READ} & passed)
        found.append(
            replace(
                fixed,
                version=i + 1,
                event_id=f"e{n}-{i}",
                previous_status=way[max(0, i - 1)],
                status=status,
                cause=order.choice(list(Cause)),
                attempt=order.randint(0, 2),
                throttled=order.random() < 0.3,
                throttles=order.randint(0, 1),
                sent_at=accepted + took[0] if sent else None,
                delivered_at=accepted + took[0] + took[1] if delivered else None,
                delivered_implied=Status.DELIVERED not in passed,
                read_at=accepted + sum(took) if Status.READ in passed else None,
            )
        )
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_roll_ups_are_what_a_plain_count_says(facts: ClickHouseFacts, client: Client, seed: int) -> None:
    """Both roll-ups, every column, with batches cut anywhere, in any order, and repeated."""
    order = random.Random(seed)  # noqa: S311  # a reproducible shuffle, no secret
    queue = [transition for delivery in lives(order) for transition in delivery]
    order.shuffle(queue)
    for n in range(0, len(queue), 37):
        for _ in range(order.randint(1, 3)):
            await facts.insert(f"batch-{n}", queue[n : n + 37])
    assert differences(client, queue) == []
    for unit in ("minute", "hour"):
        client.command(f"system start merges deliveries_by_{unit}")
        client.command(f"optimize table deliveries_by_{unit} final")
    assert differences(client, queue) == [], "after ClickHouse has merged"
    lines = in_clickhouse(client, HOUR).values()
    assert sum(line["accepted"] for line in lines) == sum(line[name] for line in lines for name in STATUSES) == 120


async def test_percentiles_are_of_what_was_measured(facts: ClickHouseFacts, client: Client) -> None:
    """READ that only implies DELIVERED measures nothing; a negative time counts as 0."""
    order = random.Random(7)  # noqa: S311  # a reproducible sample, no secret
    sample = [round(order.lognormvariate(6, 1)) for _ in range(2000)]
    sent = [state(n, 2, sent_at=T0 + ms, accepted_at=T0) for n, ms in enumerate(sample)]
    delivered = [state(n, 3, sent_at=T0 + ms, accepted_at=T0, delivered_at=T0 + 3 * ms) for n, ms in enumerate(sample)]
    implied = replace(
        state(9000, 4, accepted_at=T0, sent_at=T0 + 50), delivered_implied=True, previous_status=Status.SENT
    )
    early = state(9001, 3, accepted_at=T0, sent_at=T0 + 50, delivered_at=T0 - 400)  # the provider's whole seconds
    await facts.insert("a", sent)
    await facts.insert("b", [*delivered, implied, early])
    times = {
        "accept_to_sent": sample,
        "sent_to_delivered": [2 * ms for ms in sample],
        "accept_to_delivered": [3 * ms for ms in sample],
    }
    for step in (MINUTE, HOUR):
        (line,) = in_clickhouse(client, step).values()
        for name, values in times.items():
            ordered = sorted(values)
            for share, found in zip((0.5, 0.95, 0.99), line[f"{name}_ms"], strict=True):
                assert found == pytest.approx(ordered[int(share * len(ordered))], rel=0.03), (name, share)
        assert line["sent_to_delivered_max_ms"] == 2 * max(sample)
        assert line["delivered_to_read_le_ms"] == {}


async def test_the_newest_version_wins_whatever_comes_last(facts: ClickHouseFacts, client: Client) -> None:
    await facts.insert("new", [state(1, 3)])
    await facts.insert("old", [state(1, 1), state(1, 2)])
    assert total(client, "version, status", "deliveries final") == (3, "DELIVERED")


async def test_a_batch_of_any_size_arrives_whole(facts: ClickHouseFacts, client: Client) -> None:
    """More rows than the client puts into a block by itself."""
    rows = [state(n, 1, conversation_id=f"{n:0200}") for n in range(20_000)]
    await facts.insert("long", rows)
    assert total(client, "count(), uniqExact(conversation_id)", "delivery_events") == (20_000, 20_000)
    assert total(client, "sum(accepted)") == (20_000,)


async def test_no_person_and_no_text_enters(facts: ClickHouseFacts, client: Client) -> None:
    """Every field that can hold an address, a provider's id or a sentence gets a marker, which must not arrive."""
    given = state(
        1, 2, address="MARK", recipient="MARK", provider_message_id="MARK", reason="MARK", event_id="MARK", attempt=1
    )
    await facts.insert("t", [given])
    marked = {"sender": "MARK", "text": "MARK", "metadata": {"x": "MARK"}}
    await facts.insert("a", accepted(sequenced(1, **marked)), ACCEPTED)
    marked["metadata"] = {
        "channel": "whatsapp",
        "account": "a",
        "provider_message_id": "MARK",
        "reply_to_message_id": "MARK",
    }
    await facts.insert("i", inbound(sequenced(2, direction=Direction.INBOUND, **marked)), INBOUND)
    await facts.insert_dead_letters([dead_letter(1, detail="MARK", key=b"MARK", value=b"MARK")])
    for relation in (*RELATIONS, *OTHERS):
        row = client.query(f"select * apply toString from {relation}").result_rows
        assert row, relation
        assert "MARK" not in repr(row), relation
    left_out = {f.name for f in fields(DeliveryState)} - set(COLUMNS)
    assert left_out == {"address", "recipient", "provider_message_id", "reason", "event_id"}


async def test_an_empty_batch_is_no_insert(facts: ClickHouseFacts, client: Client) -> None:
    await facts.insert("t", [])
    await facts.insert("t", [state(1)])
    assert physical_rows(client)["delivery_events"] == 1


async def test_an_unreachable_server_is_unavailable_in_one_line() -> None:
    with pytest.raises(Unavailable, match=r"CHAT4ALL_CLICKHOUSE_URL") as raised:
        await ClickHouseFacts("http://default:@127.0.0.1:1/default").open()
    assert "\n" not in str(raised.value)


async def test_a_database_without_our_relations_says_what_to_run(clickhouse_url: str) -> None:
    with clickhouse_database(clickhouse_url, migrated=False) as url:
        with pytest.raises(NotMigrated, match=r"python -m sinks\.migrate"):
            await ClickHouseFacts(url).open()
        unopened = ClickHouseFacts(url)
        with pytest.raises(NotMigrated):
            await unopened.insert("t", [state(1)])
        await unopened.close()


async def test_a_database_that_is_not_there_is_one_line(clickhouse_url: str) -> None:
    with pytest.raises(Unavailable, match=r"CHAT4ALL_CLICKHOUSE_URL") as raised:
        await ClickHouseFacts(clickhouse_url.rpartition("/")[0] + "/no_such_database").open()
    assert "\n" not in str(raised.value)


async def test_a_value_the_client_cannot_write_is_no_reason_to_wait(facts: ClickHouseFacts) -> None:
    """A bug of ours must end the worker, and must not be retried for ever."""
    with pytest.raises(ValueError, match="'one'"):
        await facts.insert("t", [state(1, 1, seq="one")])


async def test_a_batch_that_broke_between_facts_and_views_is_completed_not_doubled(
    facts: ClickHouseFacts, client: Client
) -> None:
    """ClickHouse has no transaction around the facts and the views' targets: the retry must complete what the first try left half done."""
    await facts.insert("a", [state(1)])
    client.command(
        "create materialized view broken (n Int64) engine = MergeTree order by n as"
        " select throwIf(version = 1, 'view is broken') as n from delivery_events"
    )
    with pytest.raises(DatabaseError, match="view is broken"):
        await facts.insert("b", [state(2), state(3)])
    half_done = physical_rows(client)
    client.command("drop view broken")
    await facts.insert("b", [state(2), state(3)])
    assert physical_rows(client)["delivery_events"] == physical_rows(client)["deliveries"] == 3
    assert differences(client, [state(1), state(2), state(3)]) == []
    assert half_done["delivery_events"] == 3  # otherwise this test proves nothing


@pytest.mark.parametrize("name", ["TOO_MANY_PARTS", "MEMORY_LIMIT_EXCEEDED", None])
def test_what_passes_by_itself_is_worth_another_try(name: str | None) -> None:
    def refuse() -> None:
        raise DatabaseError("Code: 1. no", name=name)

    with pytest.raises(Unavailable):
        answered(refuse)


async def test_an_insert_the_engine_refused_is_not_taken_for_done(facts: ClickHouseFacts, client: Client) -> None:
    client.command("alter table delivery_events add constraint never check seq > 1000")
    with pytest.raises(DatabaseError, match="never"):
        await facts.insert("t", [state(1)])


async def test_an_insert_leaves_nothing_behind_for_the_collector(facts: ClickHouseFacts) -> None:
    """An object that refers to itself stays until Python's collector runs, which is rare in a worker: each batch would stay as long."""
    batch = [state(n) for n in range(50)]
    await facts.insert("first", batch)  # the first one opens the client
    gc.collect()
    gc.disable()
    try:
        for n in range(20):
            await facts.insert(f"again-{n}", batch)
        assert gc.collect() < 20, "fewer unreachable objects than inserts"
    finally:
        gc.enable()


async def test_the_room_of_each_relation_is_known(facts: ClickHouseFacts, client: Client) -> None:
    assert event_bytes(client) == 0
    await facts.insert("t", [state(n, 2, attempt=1) for n in range(1000)])
    stored = stored_bytes(client)
    assert {name: stored[name].rows for name in ("delivery_events", "deliveries", "attempts")} == {
        "delivery_events": 1000,
        "deliveries": 1000,
        "attempts": 1000,
    }
    assert 0 < stored["delivery_events"].compressed < stored["delivery_events"].plain
    assert stored["delivery_events"].a_row == stored["delivery_events"].compressed / 1000
    assert event_bytes(client) > stored["delivery_events"].a_row + stored["deliveries"].a_row
