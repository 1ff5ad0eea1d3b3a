"""Whatever bytes and values are on a topic, ClickHouse stores them safely, or the record becomes a dead letter with its cause."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from clickhouse_connect.driver.client import Client

from pipelines.analyse import LOG, STATES, Analyse, State
from pipelines.engine.stage import Record
from schemas import codec
from schemas.records import DeliveryState
from sinks.clickhouse import ClickHouseFacts, connect
from sinks.fact_repeats import find_repeat
from sinks.fact_tables import ACCEPTED, EVENTS, accepted
from sinks.storable_text import EARLIEST, LATEST
from tests.support.builders import Desk, raw, record, refused
from tests.support.fact_reference import differences
from tests.support.sink_databases import clickhouse_database, sequenced, state

TIMES = [name for name in DeliveryState.__slots__ if name.endswith("_at")] + ["not_before"]


def at(year: int) -> int:
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000)


@pytest.fixture
def url(clickhouse_url: str) -> Iterator[str]:
    with clickhouse_database(clickhouse_url) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    client = connect(url)
    yield client
    client.close()


@pytest.fixture
async def facts(url: str) -> AsyncIterator[ClickHouseFacts]:
    facts = ClickHouseFacts(url)
    yield facts
    await facts.close()


async def test_any_year_in_any_time_is_stored(facts: ClickHouseFacts, client: Client) -> None:
    """1900 and 9999 become the first and the last moment that ClickHouse can hold; the roll-ups have minutes of 1970 to 2099."""
    years = [at(year) for year in (1900, 1970, 2019, 2020, 2100, 2107, 2299, 9999)] + [0, -1, -(2**63), 2**63 - 1]
    states: list[DeliveryState] = []
    for column in TIMES:
        for when in years:
            n = len(states)
            states.append(state(n, **{column: when}))
    await facts.insert("t", states)
    assert differences(client, states) == []
    stored = {row["delivery_id"]: row for row in client.query("select * from delivery_events").named_results()}
    for each in states:
        for column in TIMES:
            given = getattr(each, column)
            wanted = None if given is None else min(max(given, EARLIEST), LATEST)
            found = stored[each.delivery_id][column]
            assert (None if found is None else round(found.timestamp() * 1000)) == wanted, (each, column)
    again = find_repeat(client, EVENTS, "other", states, 0)
    assert len(again.rows) == len(states), "rows of another batch are not taken for these"


def altered(each: Record, old: bytes, new: bytes) -> Record:
    """The record with other bytes of the same length in it."""
    assert each.value is not None
    assert each.value.count(old) == 1
    return each._replace(value=each.value.replace(old, new))


def bad_records() -> list[tuple[Record, str]]:
    """Records that no reader can take, each with the cause of its dead letter."""
    good = record(STATES, state(1, reason_code="ABCDEF"))
    numbered = record(STATES, replace(state(1), version=77))  # two bytes, and then the two statuses
    return [
        (altered(good, b"ABCDEF", b"\xed\xa0\x80DEF"), "malformed_datum"),  # a lone surrogate
        (altered(good, b"ABCDEF", b"AB\x00DEF"), "field_out_of_limits"),
        (record(STATES, state(1, tenant_id="o'hara")), "field_out_of_limits"),
        (record(STATES, state(1, reason_code="\N{GRINNING FACE}" * 4096)), "field_out_of_limits"),
        (record(LOG, sequenced(1, metadata={"campaign": "\N{GRINNING FACE}" * 4096})), "field_out_of_limits"),
        (
            altered(numbered, b"\x9a\x01\x00\x00", b"\x9a\x01\x00\x7e"),
            "malformed_datum",
        ),  # a status of a newer producer
        (raw(STATES, b""), "not_avro"),
        (raw(STATES, b"\x00" + (60_000).to_bytes(4) + b"newer"), "unknown_schema"),
        (raw(STATES, None), "not_avro"),
        (raw(LOG, codec.encode(state(1))), "unexpected_record"),
    ]


async def test_bad_records_are_refused_with_a_cause_and_the_rest_is_stored(
    facts: ClickHouseFacts, client: Client
) -> None:
    stage = Analyse(sink=facts, linger_ms=0)
    desk: Desk[State] = Desk(stage)
    bad = bad_records()
    good = [record(STATES, state(n)) for n in (5, 6)]
    hostile = {"campaign": "\x00'\\" + "\N{GRINNING FACE}" * 200, "x": "MARK"}
    good.append(record(LOG, sequenced(7, metadata=hostile)))
    mixed = [good[0], *(each for each, _ in bad), *good[1:]]
    decision = desk.turn([each._replace(offset=n) for n, each in enumerate(mixed)])
    assert refused(decision) == [cause for _, cause in sorted(bad, key=lambda pair: pair[0].topic)]
    await stage.write(decision)
    desk.turn()
    assert stage.is_done(desk.state)
    assert differences(client, [state(5), state(6)]) == []
    ((campaign,),) = client.query("select campaign from accepted_deliveries").result_rows
    assert campaign.startswith("\x00'\\" + "\N{GRINNING FACE}" * 97 + "~")


async def test_no_content_fails_a_batch(facts: ClickHouseFacts, client: Client) -> None:
    """What passes no limit today, because a former release or another program may have written it."""
    hostile = [
        state(1, delivery_id="d\x00", tenant_id="o'hara"),
        state(2, delivery_id="k" * 100_000, reason_code="\x00'\\", kind="\N{GRINNING FACE}" * 4096),
        state(3, status="NEWER", cause="NEWER", channel="newer"),
    ]
    await facts.insert("t", hostile)
    query = (
        "select tenant_id, length(delivery_id), reason_code, lengthUTF8(kind), status from delivery_events order by seq"
    )
    rows = client.query(query).result_rows
    assert rows == [
        ("o'hara", 2, "", 4, "PENDING"),
        ("default", 100_000, "\x00'\\", 4096, "PENDING"),
        ("default", 2, "", 4, "NEWER"),
    ]
    assert list(find_repeat(client, EVENTS, "t", hostile, 0).rows) == []
    odd = accepted(sequenced(4, metadata={"campaign": "'\x00"}, tenant_id="o'hara"))
    for _ in range(2):
        await facts.insert_again("a", odd, 0, ACCEPTED)
    assert client.query("select tenant_id, campaign from accepted_deliveries").result_rows == [("o'hara", "'\x00")]
