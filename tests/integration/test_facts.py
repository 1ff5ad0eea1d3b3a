"""The facts in a real ClickHouse engine: a repeated batch changes nothing, a delivery counts once, no personal data enters."""

import gc
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from schemas.records import Cause, DeliveryState, Status
from sinks.clickhouse import COLUMNS, ClickHouseFacts, answered, connect
from sinks.sink_errors import NotMigrated, Unavailable
from sinks.storable_text import LATEST
from tests.support.sink_databases import T0, clickhouse_database, state

RELATIONS = ("delivery_events", "deliveries", "deliveries_by_minute", "deliveries_by_hour")
ANY = "tenant = '', channel = '', account = ''"
WIDE = f"(since = '2020-01-01 00:00:00', until = '2100-01-01 00:00:00', {ANY})"


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


def report(client: Client, view: str = "report_delivery", bounds: str = WIDE) -> list[dict[str, Any]]:
    return list(client.query(f"select * from {view}{bounds}").named_results())


def counts(row: dict[str, Any]) -> dict[str, int]:
    names = ("accepted", "pending", "sent", "delivered", "read", "failed", "expired", "cancelled", "suppressed")
    return {name: row[name] for name in names}


async def test_every_column_comes_back_as_it_was(facts: ClickHouseFacts, client: Client) -> None:
    given = state(1, 4, anomaly="late", reason_code="131026", delivered_implied=True, resends=2, attempts=3)
    given = replace(given, stalled_at=T0 + 9)
    fresh = state(2, 1)
    await facts.insert("t", [given, fresh])
    for relation in ("delivery_events", "deliveries"):
        kept = list(client.query(f"select * from {relation} order by delivery_id").named_results())
        assert [list(row) for row in kept] == [list(COLUMNS)] * 2
        for record, row in zip((given, fresh), kept, strict=True):
            for column, value in row.items():
                is_time = column.endswith("_at") and value is not None
                assert (round(value.timestamp() * 1000) if is_time else value or None) == (
                    getattr(record, column) or None
                ), column


async def test_the_same_token_again_changes_neither_facts_nor_views(facts: ClickHouseFacts, client: Client) -> None:
    batches = {f"states-0-{v}": [state(n, v) for n in range(50)] for v in (1, 2, 3, 4)}
    for token, batch in batches.items():
        await facts.insert(token, batch)
    rows, by_hour, exact = physical_rows(client), report(client, "report_delivery_by_hour"), report(client)
    assert rows["delivery_events"] == 200
    for token, batch in batches.items():
        await facts.insert(token, batch)
    again = ClickHouseFacts(facts._url)  # another worker, after a restart
    await again.insert("states-0-1", batches["states-0-1"])
    await again.close()
    assert physical_rows(client) == rows
    assert report(client, "report_delivery_by_hour") == by_hour
    assert report(client) == exact


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
    assert report(client)[0]["accepted"] == 1
    assert report(client, "report_delivery_by_hour")[0]["accepted"] == 2


def lives(order: random.Random) -> list[list[DeliveryState]]:
    """Deliveries with every sequence of statuses that is allowed, each a list of transitions."""
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
    found = []
    for n in range(120):
        way = order.choice(ways)
        before = [way[0], *way[:-1]]
        channel = order.choice(("whatsapp", "telegram"))
        found.append(
            [
                replace(
                    state(n),
                    version=i + 1,
                    event_id=f"e{n}-{i}",
                    previous_status=before[i],
                    status=status,
                    channel=channel,
                    accepted_at=T0 + n * 60_000,
                    sent_at=T0 + n * 60_000 + 100 if {Status.SENT, Status.DELIVERED} & set(way[: i + 1]) else None,
                )
                for i, status in enumerate(way)
            ]
        )
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_roll_ups_count_each_delivery_once_wherever_it_went(
    facts: ClickHouseFacts, client: Client, seed: int
) -> None:
    """Exact report, hourly report and a count by hand agree, with batches cut anywhere and repeated."""
    order = random.Random(seed)  # noqa: S311  # a reproducible shuffle, no secret
    deliveries = lives(order)
    queue = [transition for delivery in deliveries for transition in delivery]
    order.shuffle(queue)
    for n in range(0, len(queue), 37):
        for _ in range(order.randint(1, 3)):
            await facts.insert(f"batch-{n}", queue[n : n + 37])
    for channel in ("whatsapp", "telegram"):
        ends = [delivery[-1].status for delivery in deliveries if delivery[0].channel == channel]
        by_hand = {
            "accepted": len(ends),
            "pending": ends.count(Status.PENDING),
            "sent": sum(end in (Status.SENT, Status.DELIVERED, Status.READ) for end in ends),
            "delivered": sum(end in (Status.DELIVERED, Status.READ) for end in ends),
            "read": ends.count(Status.READ),
            "failed": ends.count(Status.FAILED),
            "expired": ends.count(Status.EXPIRED),
            "cancelled": ends.count(Status.CANCELLED),
            "suppressed": ends.count(Status.SUPPRESSED),
        }
        exact = next(row for row in report(client) if row["channel"] == channel)
        assert counts(exact) == by_hand
        assert exact["accepted"] == sum(
            exact[k] for k in ("pending", "sent", "failed", "expired", "cancelled", "suppressed")
        )
        hours = [row for row in report(client, "report_delivery_by_hour") if row["channel"] == channel]
        assert len(hours) > 1
        assert {name: sum(row[name] for row in hours) for name in by_hand} == by_hand
        minutes = client.query(
            "select sum(accepted), sum(read), sum(failed) from deliveries_by_minute where channel = {c:String}",
            {"c": channel},
        )
        assert minutes.result_rows == [(by_hand["accepted"], by_hand["read"], by_hand["failed"])]


async def test_percentiles_are_of_what_was_measured(facts: ClickHouseFacts, client: Client) -> None:
    """100 deliveries sent after 1..100 ms and delivered 10..1000 ms later; READ that only implies DELIVERED measures nothing."""
    sent = [state(n, 2, sent_at=T0 + n, accepted_at=T0) for n in range(1, 101)]
    delivered = [state(n, 3, sent_at=T0 + n, accepted_at=T0, delivered_at=T0 + 11 * n) for n in range(1, 101)]
    implied = [
        state(
            n,
            4,
            accepted_at=T0,
            sent_at=T0 + 50,
            delivered_at=T0 + 900_000,
            read_at=T0 + 900_000,
            delivered_implied=True,
            previous_status=Status.SENT,
        )
        for n in range(101, 200)
    ]
    early = state(200, 3, accepted_at=T0, sent_at=T0 + 50, delivered_at=T0 - 400)  # the provider's whole seconds
    await facts.insert("a", sent)
    await facts.insert("b", [*delivered, *implied, early])
    exact, hourly = report(client)[0], report(client, "report_delivery_by_hour")[0]
    assert exact["sent_to_delivered_p50_ms"] == pytest.approx(500, abs=11)
    assert exact["sent_to_delivered_p95_ms"] == pytest.approx(950, abs=11)
    assert exact["sent_to_delivered_p99_ms"] == pytest.approx(990, abs=11)
    assert exact["delivered_to_read_p50_ms"] is None
    assert hourly["accept_to_sent_p50_ms"] == pytest.approx(50, abs=2)
    assert hourly["accept_to_sent_p99_ms"] == pytest.approx(99, abs=2)
    assert hourly["sent_to_delivered_p50_ms"] == pytest.approx(500, abs=15)
    assert hourly["sent_to_delivered_p99_ms"] == pytest.approx(990, abs=15)


async def test_the_newest_version_wins_whatever_comes_last(facts: ClickHouseFacts, client: Client) -> None:
    await facts.insert("new", [state(1, 3)])
    await facts.insert("old", [state(1, 1), state(1, 2)])
    assert counts(report(client)[0])["delivered"] == 1
    assert report(client)[0]["accepted"] == 1


async def test_the_bounds_of_a_report_are_half_open(facts: ClickHouseFacts, client: Client) -> None:
    await facts.insert("a", [state(n, 1, accepted_at=T0 + n) for n in range(3)])
    first = datetime.fromtimestamp(T0 / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    assert report(client, bounds=f"(since = '{first}.000', until = '{first}.002', {ANY})")[0]["accepted"] == 2


async def test_the_same_id_in_another_conversation_is_another_message(facts: ClickHouseFacts, client: Client) -> None:
    """Two recipients of one message are one message. The same id in another conversation is another message; another tenant's has its
    own line."""
    same = [state(1, 1), state(1, 1, delivery_id="d1b")]
    others = [state(1, 1, delivery_id="d2", conversation_id="c2"), state(1, 1, delivery_id="d3", tenant_id="acme")]
    await facts.insert("a", [*same, *others])
    query = f"select tenant_id, messages, accepted from report_delivery{WIDE}"
    assert client.query(query).result_rows == [("acme", 1, 1), ("default", 2, 3)]


async def test_no_person_and_no_text_enters(facts: ClickHouseFacts, client: Client) -> None:
    """Every field that can hold an address, a provider's id or a sentence gets a marker, which must not arrive."""
    given = state(1, 2, address="MARK", recipient="MARK", provider_message_id="MARK", reason="MARK", event_id="MARK")
    await facts.insert("t", [given])
    for relation in RELATIONS:
        row = client.query(f"select * apply toString from {relation}").result_rows
        assert "d1" in repr(row) or "by" in relation
        assert "MARK" not in repr(row)
    assert {f.name for f in fields(DeliveryState)} - set(COLUMNS) == {
        "address",
        "recipient",
        "provider_message_id",
        "reason",
        "event_id",
        "kind",
    }


async def test_no_content_fails_a_batch(facts: ClickHouseFacts, client: Client) -> None:
    """Times from any year (one partition a month, 300 months in one batch), NULs and long keys."""
    hostile = [state(n, 1, delivery_id=f"d\x00{n}", accepted_at=T0 + n * 31 * 86_400_000) for n in range(300)]
    hostile.append(
        state(301, 1, delivery_id="k" * 100_000, requested_at=2**63 - 1, occurred_at=-(2**63), reason_code="\x00'\\")
    )
    await facts.insert("t", hostile)
    assert physical_rows(client)["delivery_events"] == 301
    kept = client.query(
        "select requested_at, reason_code from delivery_events where length(delivery_id) = 100000"
    ).result_rows
    assert [(round(at.timestamp() * 1000), code) for at, code in kept] == [(LATEST, "\x00'\\")]


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
    assert report(client)[0]["accepted"] == report(client, "report_delivery_by_hour")[0]["accepted"] == 3
    assert client.query("select sum(accepted) from deliveries_by_minute").result_rows == [(3,)]
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
