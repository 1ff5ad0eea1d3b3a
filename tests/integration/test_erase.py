"""`chat4all erase` on a real PostgreSQL and Kafka: nothing of the person is left, others keep everything, a second run changes nothing."""

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from psycopg.types.json import Jsonb
from typer.testing import CliRunner, Result

from cli.main import app
from pipelines.erasure_records import ErasureRecords, kept
from schemas import codec
from schemas.catalog import TOPICS
from schemas.kafka_access import KafkaAccess
from schemas.keys import person_key
from schemas.partitions import home_partition
from schemas.records import Address, DeliveryRef, Direction, Erasure, Message, Receipt, ReceiptStatus, Recipient
from sinks import erasure, erasure_search
from sinks.erased_ids import erased_id
from sinks.erased_people import erased_name, person_digest
from sinks.postgres import PostgresArchive
from sinks.staging import MembersRow
from tests.support.builders import cursor
from tests.support.long_runs import LONG
from tests.support.sink_databases import T0, postgres_database, sequenced, state

run = CliRunner()
NUMBER, CHAT, BOB = "5511987650001", "77001", "15550002"
TEXT, OTHERS = "meet me at noon", "a text for everybody"
WAMID = f"wamid.{base64.b64encode(NUMBER.encode()).decode()}"
OWN = f"whatsapp:acc:{NUMBER}"
AT = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
SECRETS = (NUMBER, NUMBER[:4] + NUMBER[5:], CHAT, TEXT, WAMID, "ana")


@pytest.fixture
def postgres(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with postgres_database(postgres_url) as url:
        monkeypatch.setenv("CHAT4ALL_POSTGRES_URL", url)
        yield url


@pytest.fixture
def kafka(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    admin = AdminClient(KafkaAccess(kafka_url).settings("test"))
    there = admin.list_topics(timeout=10).topics
    missing = [NewTopic(name, 4, 1) for name in ("erasures", "contacts") if name not in there]
    for future in admin.create_topics(missing).values() if missing else ():
        future.result()
    monkeypatch.setenv("CHAT4ALL_KAFKA_URL", kafka_url)
    return kafka_url


def put(connection: psycopg.Connection, relation: str, **values: Any) -> None:
    names = ", ".join(values)
    places = ", ".join(f"%({name})s" for name in values)
    connection.execute(f"insert into {relation} ({names}) values ({places})".encode(), values)


def message(connection: psycopg.Connection, conversation: str, seq: int, message_id: str, **changes: Any) -> None:
    values: dict[str, Any] = {
        "tenant_id": "default", "message_id": message_id, "conversation_id": conversation, "home_partition": 1, "seq": seq,
        "direction": "OUTBOUND", "sender": "shop", "kind": "text", "text": TEXT, "metadata": Jsonb({"note": NUMBER}),
        "requested_at": AT, "accepted_at": AT, "content": Jsonb({"reply_to": WAMID}),
    }  # fmt: skip  # the columns of a row
    put(connection, "messages", **(values | changes))


def delivered(
    connection: psycopg.Connection,
    conversation: str,
    message_id: str,
    delivery_id: str,
    person: tuple[str, str, str],
    **changes: Any,
) -> None:
    """A delivery with two events, to (channel, recipient, address)."""
    channel, recipient, address = person
    event: dict[str, Any] = {
        "tenant_id": "default", "delivery_id": delivery_id, "previous_status": "PENDING", "status": "SENT", "cause": "RECEIPT",
        "occurred_at": AT, "observed_at": AT, "attempts": 1, "resends": 0, "accepted_at": AT,
        "provider_message_id": f"{address}:7", "reason_code": "x", "reason": f"{address} is busy",
    }  # fmt: skip  # the columns of a row
    for version, event_id in enumerate((f"{delivery_id}:1:accepted", f"{channel}:acc:{address}:7:sent"), 1):
        put(connection, "delivery_events", **event, version=version, event_id=event_id)
    values = {
        "message_id": message_id, "conversation_id": conversation, "home_partition": 1, "seq": 1, "channel": channel,
        "account": "acc", "recipient": recipient, "address": address, "version": 2, "requested_at": AT, "delivered_implied": False,
        "event_id": f"{channel}:acc:{address}:7:sent",
    }  # fmt: skip  # the columns of a row
    put(connection, "deliveries", **(event | values | changes))


def letter(connection: psycopg.Connection, number: int, value: bytes | None, **changes: Any) -> None:
    values: dict[str, Any] = {
        "tenant_id": "default", "dead_letter_id": f"l{number}", "stage": "route", "cause": "not_avro", "detail": "",
        "source_topic": "messages", "source_partition": 0, "source_offset": number,
        "source_timestamp": AT, "key": b"k", "value": value, "headers": Jsonb([]),
        "refused_at": AT,
    }  # fmt: skip  # the columns of a row
    put(connection, "dead_letters", **(values | changes))


ANA, ANA_TELEGRAM, OF_BOB = ("whatsapp", "ana", NUMBER), ("telegram", "ana", CHAT), ("whatsapp", "bob", BOB)


def seed(url: str) -> None:
    with psycopg.connect(url) as c:
        addresses = [
            {"channel": "whatsapp", "address": f"+{NUMBER}", "account": None},
            {"channel": "telegram", "address": CHAT, "account": "acc"},
        ]
        put(c, "contacts", tenant_id="default", user_id="ana", addresses=Jsonb(addresses), updated_at=AT)
        put(c, "contacts", tenant_id="shop", user_id="ana", addresses=Jsonb([]), updated_at=AT)
        message(c, "c-1", 1, "m1")
        delivered(c, "c-1", "m1", "d1", ANA)
        delivered(c, "c-1", "m1", "d1t", ANA_TELEGRAM)
        message(c, "group", 1, "g1", text=OTHERS, metadata=Jsonb({}), content=None)
        delivered(c, "group", "g1", "d2", ANA)
        delivered(c, "group", "g1", "d3", OF_BOB)
        message(c, "group", 2, "g2", sender="ana")
        delivered(c, "group", "g2", "d4", OF_BOB)
        labels = Jsonb({"channel": "whatsapp", "account": "acc", "provider_message_id": WAMID})
        wa_id = NUMBER[:4] + NUMBER[5:]  # the provider knows the number without its ninth digit
        own = f"whatsapp:acc:{wa_id}"
        message(c, own, 1, f"whatsapp:acc:{WAMID}", direction="INBOUND", sender=wa_id, metadata=labels)
        message(c, own, 2, "m2", text=TEXT)
        delivered(c, own, "m2", "d5", ("whatsapp", wa_id, wa_id), seq=2)
        message(c, "c-bob", 1, "b1", text=OTHERS, metadata=Jsonb({"note": BOB}), content=None)
        delivered(c, "c-bob", "b1", "d6", OF_BOB)
        for conversation, members in (("c-1", ["ana"]), ("group", ["ana", "bob"]), (own, []), ("c-bob", ["bob"])):
            put(
                c,
                "conversations",
                tenant_id="default",
                conversation_id=conversation,
                members=members,
                last_seq=2,
                last_message_at=AT,
            )
            for member in members or [wa_id]:
                put(c, "cursors", tenant_id="default", conversation_id=conversation, home_partition=1, member=member, version=1,
                    last_delivered_seq=1, newest_seq=1, changed_at=AT)  # fmt: skip  # the columns of a row
        of_no_conversation(c)


def of_no_conversation(c: psycopg.Connection) -> None:
    """Suppressions, dead letters, receipts without a delivery, and a conflict."""
    for address in (NUMBER, BOB):
        put(c, "suppressions", tenant_id="default", channel="whatsapp", account="acc", address=address, suppressed=True,
            reason="stop_word", changed_at=AT)  # fmt: skip  # the columns of a row
    sent = Message(
        message_id="m9", conversation_id="c-9", recipients=(Recipient(user_id="ana"),), text=TEXT, requested_at=1
    )
    orphan = Receipt(
        event_id="e",
        channel="whatsapp",
        account="acc",
        provider_message_id=WAMID,
        status=ReceiptStatus.READ,
        provider_at=1,
        received_at=1,
    )
    letter(c, 1, codec.encode(sent), detail=f"no contact ana, {NUMBER}", headers=Jsonb([["to", NUMBER]]))
    letter(c, 2, b"\xffjunk for " + NUMBER.encode())
    letter(c, 3, codec.encode(orphan), key=f"whatsapp:acc:{WAMID}".encode())
    letter(c, 4, b"\xffjunk for " + BOB.encode())
    letter(
        c,
        5,
        codec.encode(
            Message(
                message_id="m",
                conversation_id="c",
                recipients=(Recipient(user_id="banana"),),
                text="x",
                requested_at=1,
            )
        ),
    )
    letter(c, 6, None, detail=f"a webhook for {CHAT}")
    for provider_id in (f"{CHAT}:5", f"{BOB}:5"):
        put(c, "orphan_receipts", tenant_id="default", event_id=f"telegram:acc:{provider_id}:read", channel="telegram", account="acc",
            provider_message_id=provider_id, status="READ", cause="orphan_receipt", provider_at=AT, received_at=AT, refused_at=AT,
            dead_letter_id=provider_id[:2])  # fmt: skip  # the columns of a row
    put(c, "message_conflicts", tenant_id="default", message_id="g1", conversation_id="group", home_partition=1, seq=9,
        direction="OUTBOUND",
        sender="ana", kind="text", text=TEXT, metadata=Jsonb({}), requested_at=AT, accepted_at=AT)  # fmt: skip  # the columns of a row


def everything(url: str, *, tenant: str = "default") -> dict[str, list[str]]:
    """Every row of every relation of the tenant as text, without operator_actions' times."""
    with psycopg.connect(url) as connection:
        names = connection.execute(
            "select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname = 'public' and c.relkind in ('r', 'p') and not c.relispartition order by 1"
        ).fetchall()
        found = {}
        for (name,) in names:
            rows = connection.execute(f"select t::text, to_jsonb(t) from {name} t order by 1".encode()).fetchall()
            found[name] = [text for text, row in rows if row.get("tenant_id", tenant) == tenant]
    return found


def holding(url: str, *words: str) -> list[tuple[str, str]]:
    """Relation and row of each row with one of the words, as text or as bytes; with the user id `ana` as a whole value."""
    parts = [each for word in words if word != "ana" for each in (word, word.encode().hex())]
    return [
        (name, row)
        for name, rows in everything(url).items()
        for row in rows
        if any(part in row for part in parts) or ("ana" in words and re.search(r"(?<![a-z])ana(?![a-z])", row))
    ]


def erase(*arguments: str) -> Result:
    return run.invoke(app, ["erase", "--yes", "--wait", "0", "--operator", "olga", *arguments])


def produced(url: str, erasure_id: str) -> list[tuple[int, Erasure]]:
    """The records of one erasure, with their partitions."""
    reader = Consumer(KafkaAccess(url).settings("test", group_id="erase-test"))
    found = []
    for partition in range(4):
        at = TopicPartition("erasures", partition, 0)
        _, end = reader.get_watermark_offsets(at, timeout=10)
        reader.assign([at])
        for _ in range(end):
            record = reader.poll(10)
            assert record is not None
            found.append((partition, codec.decode(record.value(), Erasure)))
    reader.close()
    return [each for each in found if each[1].erasure_id == erasure_id]


def test_nothing_of_the_person_is_left_and_the_others_keep_everything(postgres: str, kafka: str) -> None:
    seed(postgres)
    assert {name for name, _ in holding(postgres, *SECRETS)} >= {
        "messages",
        "deliveries",
        "delivery_events",
        "contacts",
        "dead_letters",
    }
    before = everything(postgres)
    shown = run.invoke(app, ["erase", "--contact", "ana", "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert "dead_letters" in shown.stdout
    assert everything(postgres) == before, "a dry run changes nothing"
    result = erase("--contact", "ana")
    assert result.exit_code == 0, result.output
    assert holding(postgres, *SECRETS) == []
    after = everything(postgres)
    for name, rows in before.items():
        kept = {row for row in rows if BOB in row or "banana" in row or BOB.encode().hex() in row}
        assert kept <= set(after[name]), name
    assert sum(OTHERS in row for row in after["messages"]) == 2, "the group's text was for others too"
    for name in (
        "messages",
        "deliveries",
        "delivery_events",
        "message_states",
        "dead_letters",
        "cursors",
        "conversations",
    ):
        assert len(after[name]) == len(before[name]), name
    assert len(after["suppressions"]) == 1
    check_counts(postgres)
    check_ids(postgres)
    check_kafka(postgres, kafka)
    again = erase("--contact", "ana")
    assert again.exit_code == 0, again.output
    assert "was erased before" in again.stdout
    assert everything(postgres) == after
    assert everything(postgres, tenant="shop")["contacts"], "another tenant's ana stays"
    for topic in ("dead-letters", "conversation-log", "messages"):
        assert topic in result.stdout
        assert f"{TOPICS[topic].retention_days} days" in result.stdout
    listed = run.invoke(app, ["audit"])
    assert "olga" in listed.stdout
    assert holding(postgres, "olga")[0][0] == "operator_actions"
    assert not any(word in listed.stdout for word in (NUMBER, CHAT, TEXT))


def check_ids(url: str) -> None:
    """PostgreSQL replaces an id as the stages do, so that a replay meets the row."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "select event_id from delivery_events where delivery_id = 'd1' order by version"
        ).fetchall()
        assert found == [("d1:1:accepted",), (erased_id("default", "d1", f"whatsapp:acc:{NUMBER}:7:sent"),)]
        (wrote,) = connection.execute(
            "select conversation_id, message_id from messages where direction = 'INBOUND'"
        ).fetchall()
        word = erased_name(person_digest("default", "whatsapp", NUMBER))
        assert wrote == (f"whatsapp:acc:{word}", erased_id("default", "", f"whatsapp:acc:{WAMID}"))


def check_counts(url: str) -> None:
    """The roll-ups of messages still say what the deliveries say."""
    with psycopg.connect(url) as connection:
        counted = "select * from counted_message_states order by 1, 2, 3"
        stored = "select * from message_states order by 1, 2, 3"
        assert connection.execute(counted).fetchall() == connection.execute(stored).fetchall()
        word = connection.execute("select address from deliveries where delivery_id = 'd1t'").fetchone()
        assert word == (erased_name(person_digest("default", "", "ana")),)


def check_kafka(url: str, kafka: str) -> None:
    """Each delivery is named where it is, and each id of a provider where match has its rows."""
    with psycopg.connect(url) as connection:
        ((action_id, result),) = connection.execute(
            "select action_id, result from operator_actions where ended_at is not null"
        ).fetchall()
    assert result["deliveries"] >= 4
    records = produced(kafka, action_id)
    assert all(each.home_partition == partition and each.person == "ana" for partition, each in records)
    assert {i for partition, each in records for i in each.delivery_ids if partition == 1} == {"d1", "d1t", "d2", "d5"}
    at = home_partition(person_key("whatsapp", "acc", NUMBER), 4)
    assert {f"{NUMBER}:7", WAMID} <= {
        i for partition, each in records for i in each.provider_message_ids if partition == at
    }
    assert {each.conversation_id for _, each in records} >= {"c-1", "group", ""}


@pytest.mark.parametrize("after", range(12) if LONG else (0, 2))
@pytest.mark.usefixtures("kafka")
def test_an_interrupted_erasure_continues(after: int, postgres: str) -> None:
    seed(postgres)
    with psycopg.connect(postgres, autocommit=True) as connection:
        person = erasure_search.contact(connection, "default", "ana")
        action = erasure.begin(connection, person, "olga", "erase-interrupted", {})
        steps = erasure.PersonErasure(connection, person, action, keep_opt_outs=False).run(lambda _: None)
        for _, _ in zip(range(after), steps, strict=False):
            pass
    result = erase("--contact", "ana")
    assert result.exit_code == 0, result.output
    assert "was interrupted: this one continues it" in result.stdout
    assert "erase-interrupted" in result.stdout
    assert holding(postgres, *SECRETS) == []
    with psycopg.connect(postgres) as connection:
        assert connection.execute("select count(*) from operator_actions where ended_at is not null").fetchone() == (1,)


@pytest.mark.usefixtures("kafka")
def test_a_person_without_a_contact_and_their_opt_out_kept(postgres: str) -> None:
    seed(postgres)
    result = erase("--address", f"whatsapp:{BOB}", "--keep-opt-outs")
    assert result.exit_code == 0, result.output
    left = holding(postgres, BOB)
    assert {name for name, _ in left} == {"suppressions"}, left
    assert "is kept" in result.stdout
    assert holding(postgres, NUMBER), "ana's rows are there"


@pytest.mark.usefixtures("kafka")
async def test_a_replay_from_kafka_brings_nothing_of_the_person_back(postgres: str) -> None:
    """The archive makes of the old records the rows that the erasure has made."""
    own, chat = (
        f"telegram:a:{CHAT}",
        {"channel": "telegram", "recipient": CHAT, "address": CHAT, "conversation_id": f"telegram:a:{CHAT}"},
    )
    group = (
        *sequenced(2).deliveries,
        DeliveryRef(delivery_id="dg", account="a", channel="telegram", recipient=CHAT, address=CHAT),
    )
    to_chat = DeliveryRef(delivery_id="d3", account="a", channel="telegram", recipient=CHAT, address=CHAT)
    labels = {"channel": "telegram", "account": "a", "provider_message_id": f"{CHAT}:1"}
    messages = [
        sequenced(1, conversation_id=own, direction=Direction.INBOUND, sender=CHAT, text=TEXT, metadata=labels, deliveries=(),
                  message_id=f"telegram:a:{CHAT}:1"),
        sequenced(3, conversation_id=own, text=TEXT, deliveries=(to_chat,), seq=2),
        sequenced(2, conversation_id="group", text=OTHERS, deliveries=group),
    ]  # fmt: skip  # one message a line
    states = [
        state(3, version, **chat, provider_message_id=f"{CHAT}:9", event_id=f"telegram:a:{CHAT}:9:{version}")
        for version in (1, 2, 3)
    ]
    states += [
        state(2, 1, conversation_id="group"),
        state(2, 1, **chat | {"conversation_id": "group", "delivery_id": "dg"}),
    ]
    cursors = [cursor(conversation_id=own, member=CHAT, changed_at=T0)]
    members = [MembersRow("default", "group", 0, (CHAT, "bob"), T0)]
    archive = PostgresArchive(postgres)
    place = ("conversation-log", 0)

    async def written() -> dict[str, list[str]]:
        at = (await archive.positions([place]))[place]
        await archive.write(
            messages=messages, states=states, cursors=cursors, members=members, offsets={place: (at, at + 1)}
        )
        found = everything(postgres)
        return {name: found[name] for name in found if name != "sink_offsets"}

    assert CHAT in repr(await written())
    result = await asyncio.to_thread(erase, "--address", f"telegram:{CHAT}")
    assert result.exit_code == 0, result.output
    assert holding(postgres, CHAT, TEXT) == []
    once = {name: rows for name, rows in everything(postgres).items() if name != "sink_offsets"}
    assert await written() == once
    assert sum(OTHERS in row for row in once["messages"]) == 1
    with psycopg.connect(postgres) as connection:
        connection.execute("truncate messages, deliveries, delivery_events, message_states, cursors, conversations")
    await written()
    await archive.close()
    assert holding(postgres, CHAT, TEXT) == [], "a rebuilt database has nothing of them either"


BAD = {
    "nobody named": ((), 2, "name one person"),
    "both named": (("--contact", "ana", "--address", "whatsapp:1"), 2, "name one person"),
    "an unknown contact": (("--contact", "nobody"), 1, "PostgreSQL has nothing of contact nobody in tenant default"),
    "another tenant": (("--contact", "bob", "--tenant", "shop"), 1, "in tenant shop"),
    "no tenant": (("--contact", "ana", "--tenant", "a/b"), 2, "letters, digits"),
    "an unknown channel": (("--address", "pigeon:1"), 2, "CHANNEL:ADDRESS"),
    "no channel": (("--address", "15550002"), 2, "CHANNEL:ADDRESS"),
    "an unknown address": (("--address", "whatsapp:999"), 1, "nothing of this address"),
    "a NUL": (("--contact", "a\x00"), 2, "no contact has such a user id"),
}


@pytest.mark.usefixtures("kafka")
def test_bad_input_ends_in_a_sentence_and_changes_nothing(postgres: str) -> None:
    seed(postgres)
    before = everything(postgres)
    for label, (arguments, code, sentence) in BAD.items():
        result = erase(*arguments)
        assert (result.exit_code, type(result.exception)) == (code, SystemExit), (label, result.output)
        assert sentence in " ".join(result.output.split()).replace("│ ", "").replace(" │", ""), (label, result.output)
    refusal = run.invoke(app, ["erase", "--contact", "ana"], input="n\n")
    assert refusal.exit_code == 1
    assert everything(postgres) == before


def test_records_of_a_person_with_many_addresses_and_deliveries_are_within_their_limits() -> None:
    addresses = tuple(Address(channel="whatsapp", address=str(n), account="acc") for n in range(100))
    person = erasure_search.ErasedPerson("default", "ana", addresses)
    records = ErasureRecords(person, erasure.ErasureAction("e", 1), partitions=4, keep_opt_outs=False)
    ids = tuple(f"d{n}" for n in range(1200))
    found = erasure.FoundRows("c", None, ids, tuple(erasure.ProviderMessage("whatsapp", "acc", "1", i) for i in ids))
    made = [codec.decode(each.value, Erasure) for each in records.of([found])]
    of_conversation = [each for each in made if each.conversation_id]
    assert tuple(i for each in of_conversation for i in each.delivery_ids) == ids
    assert {a for each in of_conversation for a in each.addresses} == set(addresses)
    assert {i for each in made for i in each.provider_message_ids} == set(ids)
    assert {each.home_partition for each in of_conversation} == {home_partition("c", 4)}


def test_the_command_says_what_stays() -> None:
    assert kept()[0].days is None
    assert json.dumps([each.topic for each in kept()]).count("dead-letters") == 1
