"""`chat4all message` and `chat4all report` against real servers, as a person uses them."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from typer.testing import CliRunner, Result

from cli import message
from schemas import codec
from schemas.content import Content, Media
from schemas.kafka_access import KafkaAccess
from schemas.partitions import home_partition
from schemas.records import CHANNELS, Cause, DeliveryState, Message, Recipient, SequencedMessage, Status
from sinks.history import timelines
from sinks.postgres import PostgresArchive
from tests.support.sink_databases import T0, postgres_database, sequenced, state

run = CliRunner()
IMAGE = Media("image", url="https://shop.example/a.jpg")


@pytest.fixture
def postgres(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with postgres_database(postgres_url) as url:
        monkeypatch.setenv("CHAT4ALL_POSTGRES_URL", url)
        yield url


@pytest.fixture
def kafka(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    admin = AdminClient(KafkaAccess(kafka_url).settings("test"))
    if "messages" not in admin.list_topics(timeout=10).topics:
        admin.create_topics([NewTopic("messages", 4, 1)])["messages"].result()
    monkeypatch.setenv("CHAT4ALL_KAFKA_URL", kafka_url)
    return kafka_url


async def archive(url: str, messages: list[SequencedMessage], states: list[DeliveryState]) -> None:
    sink = PostgresArchive(url)
    await sink.open()
    at = (await sink.positions([("t", 0)]))["t", 0]
    await sink.write(messages=messages, states=states, offsets={("t", 0): (at, at + 1)})
    await sink.close()


def lines(result: Result) -> str:
    return re.sub(r"[ \u2500-\u257f]+", " ", result.output)  # tables without their borders


def test_send_produces_a_message_any_consumer_can_read_where_it_says(kafka: str) -> None:
    result = run.invoke(
        message.app,
        [
            "send",
            "--conversation",
            "c 1",
            "--to",
            "whatsapp:15551234567",
            "--to",
            "user:u7",
            "--text",
            "Olá 👋",
            "--tenant",
            "acme",
        ],
    )
    assert result.exit_code == 0, result.output
    printed = re.fullmatch(
        r"acknowledged (m-[0-9a-f]{32}) at messages\[(\d+)\]@(\d+)\nchat4all message show \1 --tenant acme\n",
        result.output,
    )
    assert printed is not None, result.output
    message_id, partition, offset = printed[1], int(printed[2]), int(printed[3])
    consumer = Consumer({**KafkaAccess(kafka).settings("test"), "group.id": "nobody", "enable.auto.commit": False})
    consumer.assign([TopicPartition("messages", partition, offset)])
    record = consumer.poll(20)
    consumer.close()
    assert record is not None
    assert record.key() == b"acme/c 1"
    assert partition == home_partition(
        "acme/c 1", len(AdminClient(KafkaAccess(kafka).settings("test")).list_topics().topics["messages"].partitions)
    )
    produced = codec.decode(record.value(), Message)
    assert (produced.message_id, produced.tenant_id, produced.conversation_id, produced.text) == (
        message_id,
        "acme",
        "c 1",
        "Olá 👋",
    )
    assert produced.recipients == (Recipient(channel="whatsapp", address="15551234567"), Recipient(user_id="u7"))


@pytest.mark.usefixtures("kafka")
@pytest.mark.parametrize("to", ["whatsap:1555", "1555", "whatsapp:", ":1555", ""])
def test_send_refuses_what_is_no_recipient_before_anything_is_produced(to: str) -> None:
    result = run.invoke(message.app, ["send", "--conversation", "c", "--to", to, "--text", "t"])
    assert result.exit_code == 2
    assert "acknowledged" not in result.output
    assert f"with a channel of {', '.join(CHANNELS)}; or user:" in " ".join(lines(result).split())


@pytest.mark.usefixtures("kafka")
def test_send_names_the_conversation_of_an_id_that_may_stand_in_several() -> None:
    to = ["send", "--conversation", "c 1", "--to", "telegram:5", "--text", "t", "--id", "m-1"]
    result = run.invoke(message.app, to)
    assert result.output.endswith("\nchat4all message show m-1 --conversation 'c 1'\n")
    refused = run.invoke(message.app, [*to, "--tenant", "a/b"])
    assert refused.exit_code == 2
    assert "1 to 64 letters, digits" in " ".join(lines(refused).split())


def test_send_never_says_acknowledged_when_kafka_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT4ALL_KAFKA_URL", "127.0.0.1:1")
    monkeypatch.setattr(message, "_ACKNOWLEDGED_WITHIN_SECONDS", 0.5)
    result = run.invoke(message.app, ["send", "--conversation", "c", "--to", "telegram:5", "--text", "t"])
    assert result.exit_code == 2
    assert re.fullmatch(r"not acknowledged [^\n]*CHAT4ALL_KAFKA_URL[^\n]*\n", result.stderr)
    assert result.stdout == ""


@pytest.mark.usefixtures("kafka")
def test_send_takes_media_and_refuses_what_means_nothing() -> None:
    to = ["send", "--conversation", "c", "--to", "telegram:5"]
    image = ["--media-url", "https://shop.example/a.jpg"]
    assert run.invoke(message.app, [*to, "--kind", "image", "--text", "a caption", *image]).exit_code == 0
    assert run.invoke(message.app, [*to, "--kind", "album", *image, "--media-url", "https://x/b.mp4"]).exit_code == 0
    assert run.invoke(message.app, [*to, "--kind", "reaction", "--reaction", "👍", "--reply-to", "5:42"]).exit_code == 0
    refused = run.invoke(message.app, [*to, *image])
    assert refused.exit_code == 2
    assert "of kind text has a media" in " ".join(lines(refused).split())


@pytest.mark.usefixtures("kafka")
def test_send_refuses_a_message_larger_than_kafka_takes_in_one_line() -> None:
    result = run.invoke(message.app, ["send", "--conversation", "c", "--to", "telegram:5", "--text", "x" * 1_200_000])
    assert result.exit_code == 2
    assert result.stderr.startswith("not sent: ")
    assert result.stderr.count("\n") == 1


def test_show_tells_the_whole_life_of_each_delivery(postgres: str) -> None:
    late = replace(
        state(1, 4),
        version=5,
        event_id="late",
        previous_status=Status.READ,
        cause=Cause.RECEIPT,
        anomaly="FAILED after READ",
        read_at=T0 + 1006,
        attempts=2,
        resends=1,
        reason_code="131026",
        reason="undeliverable",
    )
    other = state(1, 2, delivery_id="d1b", channel="telegram", recipient="700", address="700")
    asyncio.run(
        archive(
            postgres,
            [sequenced(1, metadata={"campaign": "spring"}, content=Content(media=(IMAGE,), reply_to="wamid.0"))],
            [*(state(1, v) for v in (1, 2, 3, 4)), late, other],
        )
    )
    result = run.invoke(message.app, ["show", "m1"])
    assert result.exit_code == 0, result.output
    shown = lines(result)
    for expected in (
        "Message m1",
        "text text 1",
        "metadata campaign spring",
        'media {"url": "https://shop.example/a.jpg", "kind": "image"}',
        "reply_to wamid.0",
        "whatsapp:15551234567 READ delivery d1",
        "dispatched 2026-09-21 14:13:20.016Z +10 ms +10 ms",
        "sent 2026-09-21 14:13:20.106Z +90 ms +100 ms",
        "delivered 2026-09-21 14:13:20.506Z +400 ms +500 ms",
        "read 2026-09-21 14:13:21.006Z +500 ms +1,000 ms",
        "attempts 2, resends after unknown 1, 131026 undeliverable",
        "5 receipt; anomaly: FAILED after READ; 131026 undeliverable READ",
        "1 created PENDING",
        "2 accepted PENDING -> SENT",
        "telegram:700 SENT delivery d1b",
    ):
        assert expected in shown


def test_show_finds_what_postgresql_cannot_hold_and_lets_no_text_steer_the_terminal(postgres: str) -> None:
    asyncio.run(archive(postgres, [sequenced(1, message_id="m\x00\u2400", text="\x1b[2Jgone\x00")], []))
    result = run.invoke(message.app, ["show", "m\x00\u2400"])
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert "\ufffd[2Jgone\ufffd" in result.output


def test_timeline_gives_texts_back_as_they_were(postgres: str) -> None:
    asyncio.run(
        archive(postgres, [sequenced(1, text="a\x00b\u2400", metadata={"k\x00": "\u2400"})], [state(1), state(1, 2)])
    )
    with psycopg.connect(postgres) as connection:
        (found,) = timelines(connection, "m1")
        assert timelines(connection, "m1", "another") == timelines(connection, "m1", conversation_id="c2") == ()
    assert found.message is not None
    assert (found.message["text"], found.message["metadata"]) == ("a\x00b\u2400", {"k\x00": "\u2400"})
    assert found.message["accepted_at"] == sequenced(1).accepted_at
    assert [event["version"] for event in found.trails[0].events] == [1, 2]


def test_show_says_how_the_deliveries_of_a_message_stand_if_there_are_several(postgres: str) -> None:
    of = {"message_id": "m1", "seq": 1, "accepted_at": sequenced(1).accepted_at}
    group = [state(n, version, **of) for n, version in ((1, 4), (2, 3), (3, 2), (4, 2))]
    failed = state(5, 2, **of, status=Status.FAILED, sent_at=None)
    asyncio.run(archive(postgres, [sequenced(1), sequenced(2)], [*group, failed, state(6, 2, message_id="m2", seq=2)]))
    shown = lines(run.invoke(message.app, ["show", "m1"]))
    assert (
        "5 deliveries: 1 READ, 1 DELIVERED, 2 SENT, 1 FAILED; sent: some, delivered: some, read: some, failed: some;"
        in shown
    )
    assert "best READ, worst FAILED" in shown
    assert "deliveries:" not in lines(run.invoke(message.app, ["show", "m2"]))


def test_show_of_an_id_in_several_conversations_shows_each_or_the_one_asked_for(postgres: str) -> None:
    """A NUL in a conversation's id, and one whose deliveries came first."""
    others = [sequenced(1, conversation_id="c\x00", text="elsewhere", seq=1)]
    early = state(1, 2, conversation_id="c9", delivery_id="d9")
    asyncio.run(archive(postgres, [sequenced(1), *others], [state(1, 2), early]))
    shown = lines(run.invoke(message.app, ["show", "m1"]))
    assert "3 messages have this id, each in another conversation" in shown
    headings = [line for line in shown.splitlines() if line.startswith("Message m1 in conversation")]
    assert {line.rsplit(" ", 1)[1] for line in headings} == {"c1", "c\ufffd", "c9"}
    assert all(part in shown for part in ("text 1", "elsewhere", "delivery d1", "delivery d9"))
    one = lines(run.invoke(message.app, ["show", "m1", "--conversation", "c\x00"]))
    assert "elsewhere" in one
    assert "text 1" not in one
    assert "delivery" not in one
    nowhere = run.invoke(message.app, ["show", "m1", "--conversation", "c3"])
    assert (nowhere.exit_code, nowhere.stdout) == (1, "")
    assert nowhere.stderr.startswith("no message m1 of tenant default in conversation c3 in PostgreSQL")


@pytest.mark.usefixtures("postgres")
def test_show_of_more_conversations_than_a_person_reads_is_bounded(postgres: str) -> None:
    asyncio.run(archive(postgres, [sequenced(1, conversation_id=f"c{n:02}", seq=1) for n in range(25)], []))
    shown = lines(run.invoke(message.app, ["show", "m1"]))
    assert "more than 20 messages have this id" in shown
    assert "Message m1 in conversation c19" in shown
    assert "conversation c20" not in shown


@pytest.mark.usefixtures("postgres")
def test_show_of_an_unknown_message_is_no_in_one_line() -> None:
    result = run.invoke(message.app, ["show", "nothing"])
    assert result.exit_code == 1
    assert result.stderr.startswith("no message nothing of tenant default in PostgreSQL")
    assert result.stderr.count("\n") == 1


def test_show_without_postgresql_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT4ALL_POSTGRES_URL", "postgresql://nobody@127.0.0.1:1/none")
    result = run.invoke(message.app, ["show", "m1"])
    assert result.exit_code == 2
    assert re.fullmatch(r"PostgreSQL cannot be reached \(CHAT4ALL_POSTGRES_URL\)[^\n]*\n", result.stderr)
