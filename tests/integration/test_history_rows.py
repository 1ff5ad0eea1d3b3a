"""Months, conversations, the register and retention, with real databases."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from schemas import codec
from schemas.records import DeadLetter, SequencedMessage
from schemas.retention_days import DAY_MS, Retention
from sinks.clickhouse import ClickHouseFacts, connect
from sinks.erased_people import erased_name, person_digest
from sinks.postgres import PostgresArchive
from sinks.register_sink import PostgresRegister, RegisterBatch
from sinks.retention import retain
from sinks.sink_errors import Unavailable
from sinks.staging import Members
from tests.support import builders
from tests.support.register_records import contact
from tests.support.sink_databases import T0, clickhouse_database, dead_letter, rows, sequenced, state

LOG, STATES, CONVERSATIONS = ("conversation-log", 0), ("delivery-states", 0), ("conversations", 0)
REGISTERED = ("dead-letters", 0)
NOW_MS = int(datetime.now(UTC).timestamp() * 1000)


async def write(archive: PostgresArchive, **batch: Any) -> None:
    at = (await archive.positions([LOG]))[LOG]
    await archive.write(**({"messages": [], "states": []} | batch), offsets={LOG: (at, at + 1)})


def everything(url: str) -> dict[str, list[tuple[Any, ...]]]:
    relations = (
        "messages",
        "message_conflicts",
        "deliveries",
        "delivery_events",
        "message_states",
        "conversations",
        "cursors",
    )
    relations += ("contacts", "suppressions", "dead_letters", "orphan_receipts")
    return {name: rows(url, f"select r::text from {name} r order by 1") for name in relations}


def at(days_ago: float) -> int:
    return NOW_MS - int(days_ago * DAY_MS)


def aged(n: int, days_ago: float, tenant: str = "default") -> tuple[SequencedMessage, Any]:
    """Message and delivery `n`, accepted so long ago, in a conversation of its own."""
    same = {"tenant_id": tenant, "conversation_id": f"c{n}", "accepted_at": at(days_ago), "seq": 1}
    return sequenced(n, **same), state(n, 2, **same)


@pytest.fixture
def clickhouse(clickhouse_url: str) -> Iterator[str]:
    with clickhouse_database(clickhouse_url) as url:
        yield url


@pytest.fixture
async def register(url: str) -> AsyncIterator[PostgresRegister]:
    register = PostgresRegister(url)
    await register.positions([REGISTERED])
    yield register
    await register.close()


async def test_a_conversation_has_its_members_its_times_and_its_newest_sequence(
    archive: PostgresArchive, url: str
) -> None:
    await write(archive, messages=[sequenced(2), sequenced(1)], members=[Members("default", "c1", 0, ("ana",), 10)])
    await write(archive, messages=[sequenced(3)], members=[Members("default", "c1", 0, ("ana", "bia\x00"), 20)])
    before = everything(url)
    for members in (("ana",), ("ana", "bia\x00")):
        newest = 20 if len(members) == 2 else 10
        await write(
            archive, messages=[sequenced(1), sequenced(3)], members=[Members("default", "c1", 0, members, newest)]
        )
    assert everything(url) == before, "a replay changes nothing, not even archived_at"
    found = rows(url, "select members, last_seq, home_partition, first_message_at, last_message_at from conversations")
    assert found[0][:3] == (["ana", "bia\u24000"], 3, 0)
    assert [round(each.timestamp() * 1000) for each in found[0][3:]] == [T0 + 6, T0 + 8]
    await write(archive, members=[Members("default", "c1", 0, (), None), Members("default", "new", 1, ("x",), 5)])
    assert rows(url, "select conversation_id, members, members_at is null, last_seq from conversations order by 1") == [
        ("c1", [], True, 3),
        ("new", ["x"], False, 0),
    ]


async def test_keys_are_given_once_over_all_months(archive: PostgresArchive, url: str) -> None:
    """The same conversation in three months, one of which has no partition of its own."""
    months = [T0, T0 + 31 * DAY_MS, NOW_MS]
    await write(archive, messages=[sequenced(n, accepted_at=when) for n, when in enumerate(months, 1)])
    wrong = [
        sequenced(1, seq=9, accepted_at=NOW_MS),
        sequenced(8, seq=2, accepted_at=NOW_MS),
        sequenced(3, accepted_at=NOW_MS + 1),
    ]
    await write(archive, messages=[*wrong, *(sequenced(n, accepted_at=when) for n, when in enumerate(months, 1))])
    assert (archive.conflicts, archive.reused) == (3, 0)
    assert rows(url, "select message_id, seq from messages order by 2") == [("m1", 1), ("m2", 2), ("m3", 3)]
    assert rows(url, "select message_id, seq from message_conflicts order by 1, 2") == [("m1", 9), ("m3", 3), ("m8", 2)]


async def test_a_month_takes_its_rows_out_of_other_and_counts_stay(archive: PostgresArchive, url: str) -> None:
    months = rows(url, "select relname::text from pg_class where relname ~ '^messages_2' and relispartition order by 1")
    now = datetime.now(UTC)
    assert months[0][0] == f"messages_{now:%Y_%m}"
    assert len(months) == 3
    odd = [(1, 0), (2, 253_402_300_799_999), (3, T0)]  # 1970, 9999, and a month without partitions
    await write(
        archive,
        messages=[sequenced(n, accepted_at=when) for n, when in odd],
        states=[state(n, 2, accepted_at=when) for n, when in odd],
    )
    assert rows(url, "select count(*) from messages_other") == [(3,)]
    before = everything(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("select create_month('2026-09-01')")
        connection.execute("select create_month('2026-09-01')")
    assert everything(url) == before
    for relation in ("messages", "deliveries", "delivery_events", "message_states"):
        assert rows(url, f"select count(*) from {relation}_2026_09") == [(1,)], relation
        assert rows(url, f"select count(*) from {relation}_other") == [(2,)], relation
    await write(archive, states=[state(3, 3, accepted_at=T0)])
    assert rows(url, "select * from message_states except select * from counted_message_states") == []


async def test_an_erased_person_stays_erased_when_their_records_come_again(
    archive: PostgresArchive, register: PostgresRegister, url: str
) -> None:
    digest = person_digest("default", "whatsapp", "15551234567")
    word = erased_name(digest)
    with psycopg.connect(url) as connection:
        connection.execute(
            "insert into erased_people select 'default', %s, to_timestamp(%s / 1000.0), 'a'", (digest, T0 + 100)
        )
    before, after = {"accepted_at": T0 + 100, "metadata": {"a": "b"}}, {"accepted_at": T0 + 101}
    people = [builders.cursor(member="15551234567", changed_at=T0), builders.cursor(member="bia", changed_at=T0)]
    await write(
        archive,
        messages=[sequenced(1, **before), sequenced(2, **after)],
        states=[
            state(1, 2, **before, reason="15551234567")
            if False
            else state(1, 2, accepted_at=T0 + 100, reason="to 15551234567"),
            state(2, 2, **after),
        ],
        cursors=people,
        members=[Members("default", "c1", 0, ("15551234567", "bia"), T0)],
    )
    assert rows(url, "select seq, text, metadata, content from messages order by 1") == [
        (1, "", {}, None),
        (2, "text 2", {}, None),
    ]
    assert rows(url, "select address, recipient, reason from deliveries order by delivery_id") == [
        (word, word, None),
        ("15551234567", "15551234567", None),
    ]
    assert rows(url, "select member from cursors order by 1") == [("bia",), (word,)]
    assert rows(url, "select members from conversations") == [([word, "bia"],)]
    letters = [
        dead_letter(n, value=codec.encode(sequenced(n)), refused_at=when) for n, when in ((1, T0), (2, T0 + 101))
    ]
    known = contact("ana", "15551234567", updated_at=T0)
    batch = RegisterBatch(
        {("default", "ana"): known},
        [builders.suppression(address="15551234567", changed_at=T0)],
        letters,
    )
    await register.write(batch, {REGISTERED: (0, 1)})
    assert rows(url, "select key, value is null, erased_at is null from dead_letters order by dead_letter_id") == [
        (None, True, False),
        (b"key", False, True),
    ]
    assert rows(url, "select count(*) from contacts") == [(0,)]
    assert rows(url, "select address from suppressions") == [(word,)]


async def test_the_register_keeps_the_newest_and_a_replay_changes_nothing(
    register: PostgresRegister, url: str, clickhouse: str
) -> None:
    lost = builders.receipt()
    orphan = {"source_topic": "receipts", "cause": "orphan_receipt", "value": codec.encode(lost)}
    odd = {
        "tenant_id": "it's",
        "detail": "a\x00b",
        "key": None,
        "value": None,
        "source_offset": 2**63 - 1,
        "refused_at": 2**60,
    }
    letters: list[DeadLetter] = [dead_letter(1), dead_letter(2, **orphan), dead_letter(3, **odd)]
    newest = contact("ana", "2\x00", "3", opt_outs=("whatsapp",), updated_at=T0 + 1)
    suppressed = builders.suppression(changed_at=T0)
    batches = [
        RegisterBatch(
            {("default", "ana"): contact("ana", "1", updated_at=T0), ("default", "bia"): contact("bia")}, [suppressed]
        ),
        RegisterBatch(
            {("default", "ana"): newest, ("default", "bia"): None},
            [builders.suppression(suppressed=False, changed_at=T0 + 1)],
            letters,
        ),
    ]
    facts = ClickHouseFacts(clickhouse)
    for n, batch in enumerate(batches):
        await facts.insert_dead_letters(batch.letters)
        await register.write(batch, {REGISTERED: (n, n + 1)})
    before = everything(url)
    for n, batch in enumerate(batches, 2):
        await facts.insert_dead_letters(batch.letters)
        await register.write(batch, {REGISTERED: (n, n + 1)})
    assert everything(url) == before
    await facts.close()
    assert rows(
        url, "select user_id, addresses -> 0 ->> 'address', jsonb_array_length(addresses), opt_outs from contacts"
    ) == [("ana", "2\u24000", 2, ["whatsapp"])]
    assert rows(url, "select suppressed from suppressions") == [(False,)]
    assert rows(url, "select tenant_id, detail, value, source_offset from dead_letters order by dead_letter_id")[2] == (
        "it's",
        "a\u24000b",
        None,
        2**63 - 1,
    )
    assert rows(url, "select event_id, status, dead_letter_id from orphan_receipts") == [
        (lost.event_id, lost.status, "x2")
    ]
    client = connect(clickhouse)
    assert client.query("select dead_letter_id, cause from dead_letter_events final order by 1").result_rows == [
        ("x1", "not_avro"),
        ("x2", "orphan_receipt"),
        ("x3", "not_avro"),
    ]
    client.close()


async def test_retention_drops_months_and_deletes_what_is_older_for_single_tenants(url: str, clickhouse: str) -> None:
    archive, register = PostgresArchive(url), PostgresRegister(url)
    ages = {1: 1, 2: 20, 3: 70, 4: 200}
    made = [
        aged(n + 10 * (tenant == "it's"), days, tenant) for tenant in ("default", "it's") for n, days in ages.items()
    ]
    await write(archive, messages=[message for message, _ in made], states=[each for _, each in made])
    forged = sequenced(90, conversation_id="c90", accepted_at=5)
    await write(archive, messages=[forged], cursors=[builders.cursor(conversation_id="c4", changed_at=5)])
    await register.positions([REGISTERED])
    letters = [
        dead_letter(n, tenant_id=tenant, refused_at=at(days))
        for tenant in ("default", "it's")
        for n, days in ages.items()
    ]
    await register.write(RegisterBatch(letters=letters), {REGISTERED: (0, 1)})
    facts = ClickHouseFacts(clickhouse)
    await facts.insert("t", [each for _, each in made])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("update messages set archived_at = accepted_at where accepted_at > '2000-01-01'")
        connection.execute("update conversations set archived_at = last_message_at where conversation_id <> 'c90'")
    kept = Retention(90, {"it's": 10})
    now = datetime.fromtimestamp(NOW_MS / 1000, UTC)
    looked = retain(url, clickhouse, kept, now, operator="me", apply=False)
    assert rows(url, "select count(*) from messages") == [(9,)], "it only looked"
    done = retain(url, clickhouse, kept, now, operator="me", apply=True)
    assert {each for each in looked if "postgres" in each and "month" not in each} <= set(done)
    left = {"default": ["c1", "c2", "c3"], "it's": ["c11"]}
    # a month goes as a whole: what is 200 days old is surely in one that ended 90 days ago
    for relation in ("messages", "deliveries", "message_states", "conversations"):
        found = rows(
            url, f"select tenant_id, conversation_id from {relation} where conversation_id <> 'c90' order by 1, 2"
        )
        assert found == [(tenant, each) for tenant, names in left.items() for each in names], relation
    assert rows(url, "select count(*) from delivery_events") == [(4,)]
    assert rows(url, "select tenant_id, count(*) from dead_letters group by 1 order by 1") == [
        ("default", 3),
        ("it's", 1),
    ]
    assert rows(url, "select count(*) from messages where conversation_id = 'c90'") == [(1,)], (
        "1970 is no plausible time"
    )
    assert rows(url, "select count(*) from cursors") == [(0,)]
    assert rows(url, "select * from message_states except select * from counted_message_states") == []
    client = connect(clickhouse)
    for relation in ("delivery_events", "deliveries"):
        count = client.query(f"select tenant_id, count() from {relation} group by 1 order by 1").result_rows
        assert count == [("default", 3), ("it's", 1)], relation
    client.close()
    assert retain(url, clickhouse, kept, now, operator="me", apply=True) == []
    assert rows(url, "select action, operator, ended_at is not null, detail from operator_actions")[0] == (
        "retention",
        "me",
        True,
        {"days": 90, "tenants": {"it's": 10}},
    )
    # a replay brings nothing back, and says how much it left out
    again = PostgresArchive(url, retention=kept)
    before = everything(url)
    await write(again, messages=[message for message, _ in made], states=[each for _, each in made])
    assert everything(url) == before
    assert again.too_old == 8
    for sink in (archive, register, again):
        await sink.close()
    await facts.close()


async def test_one_retention_at_a_time_and_a_long_reader_is_waited_for(url: str, clickhouse: str) -> None:
    archive = PostgresArchive(url)
    message, delivery = aged(1, 200)
    await write(archive, messages=[message], states=[delivery])
    now = datetime.now(UTC) + timedelta(days=1)
    with psycopg.connect(url) as other:
        other.execute("select pg_advisory_lock(4201841044)")
        with pytest.raises(Unavailable, match="another retention is running"):
            retain(url, clickhouse, Retention(90), now, operator="me", apply=True)
    await archive.close()
