"""The whole product on one real stack: good and bad messages, webhooks, the views of the workers, the command line.

All tests of this file share one stack; each uses its own conversations.
"""

import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import clickhouse_connect
import psycopg
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from cli.dev_stack import compose
from pipelines.stages import WORKERS, tables
from schemas import codec
from schemas.catalog import record_bytes
from schemas.client_tokens import tokens_in
from schemas.content import Content, Location, LongText, Media, Template
from schemas.content_json import from_json
from schemas.ids import shown_id
from schemas.partitions import home_partition
from schemas.records import Address, Contact, Conversation, DeadLetter, Message, Recipient, Record
from schemas.settings import Settings
from stack import control
from stack.state import StackState, state_path
from tests.support import leaks
from tests.support.builders import conversation, delivery, receipt, ref, sequenced, update
from tests.support.engine_harness import await_true


class Running(NamedTuple):
    """The stack under test. `environment` makes a child process find it."""

    folder: Path
    settings: Settings
    state: StackState

    def url(self, service: str, part: str = "views") -> str:
        named = {s.name: s.parts.get(part, s.url) for s in self.state.services}
        return {**named, **next(s.parts for s in self.state.services if s.name == "simulators")}[service]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "CHAT4ALL_STATE": str(state_path(self.folder))}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("whole") / "stack"
    state = control.start(folder, compose(folder), lambda _: None)
    yield Running(folder, Settings.model_validate(state.settings), state)
    assert len(set(leaks.secrets_of_stacks(folder))) > 5
    logs, found = list(leaks.log_files(folder)), leaks.in_files(folder)
    control.stop(folder)
    assert {"gateway.log", "core.log", "simulators.log"} <= {log.name for log in logs}
    assert found == [], "a process of the stack logged a text or a secret"


@pytest.fixture
def produce(running: Running) -> Iterator[Callable[..., None]]:
    producer = Producer({**running.settings.kafka.settings("tests"), "partitioner": "murmur2_random"})

    def send(topic: str, key: str | bytes | None, value: bytes | None, partition: int = -1) -> None:
        producer.produce(topic, value, key, partition)
        assert producer.flush(30) == 0

    yield send
    producer.flush(10)


def text_message(unique: str, n: int = 0, **fields: Any) -> Message:
    whole: dict[str, Any] = {
        "message_id": f"{unique}-{n}",
        "conversation_id": unique,
        "recipients": (Recipient(channel="whatsapp", address="15550001234"),),
        "text": f"[{unique}-{n}] olá ✓",
        "requested_at": 1_700_000_000_000,
    }
    return Message(**(whole | fields))


def statuses(running: Running, message_id: str) -> list[str]:
    with psycopg.connect(running.settings.postgres_url) as connection:
        rows = connection.execute(
            "select status from deliveries where message_id = %s order by 1", (message_id,)
        ).fetchall()
    return [row[0] for row in rows]


def dead_letters(running: Running) -> list[DeadLetter]:
    consumer = Consumer({**running.settings.kafka.settings("tests"), "group.id": "tests", "enable.partition.eof": True})
    partitions = list(consumer.list_topics("dead-letters", timeout=10).topics["dead-letters"].partitions)
    consumer.assign([TopicPartition("dead-letters", number, 0) for number in partitions])
    left, letters = set(partitions), []
    while left:
        for message in consumer.consume(500, 0.2):
            error = message.error()
            if error is None:
                letters.append(codec.decode(message.value(), DeadLetter))
            else:
                assert error.code() == KafkaError._PARTITION_EOF, error
                left.discard(message.partition() or 0)
    consumer.close()
    return letters


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def command(running: Running, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env=running.environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_one_message_end_to_end(running: Running, produce: Callable[..., None], unique: str) -> None:
    """Kafka, provider, signed receipts, PostgreSQL, ClickHouse; a repetition of the record changes nothing."""
    value = codec.encode(text_message(unique))
    produce("messages", unique, value)
    produce("messages", unique, value)
    await_true(lambda: statuses(running, f"{unique}-0") == ["READ"], "the message to be read", 30)
    client = clickhouse_connect.get_client(dsn=running.settings.clickhouse_url)
    query = f"SELECT status FROM deliveries FINAL WHERE conversation_id = '{unique}'"
    await_true(lambda: client.query(query).result_rows == [("READ",)], "ClickHouse to know", 20)
    client.close()
    shown = command(running, "message", "show", f"{unique}-0")
    assert shown.returncode == 0, shown.stderr
    assert "READ" in shown.stdout


def test_every_content_end_to_end(running: Running, produce: Callable[..., None], unique: str) -> None:
    """Media, a template, a place, an album, a signal: accepted by strict providers, stored unchanged in PostgreSQL."""
    image = Media("image", url="https://shop.example/a.jpg", mime_type="image/jpeg")
    template = Template("order_shipped", "pt_BR", body=("1001",))
    whatsapp, telegram = (
        Recipient(channel="whatsapp", address="15550001234"),
        Recipient(channel="telegram", address="5550101"),
    )
    instagram = Recipient(channel="instagram", address="17841400000000001")
    sent: list[tuple[Recipient, str, str, Content | None]] = [
        (whatsapp, "image", "a caption", Content(media=(image,))),
        (whatsapp, "template", "", Content(template=template)),
        (whatsapp, "location", "", Content(location=Location(-23.55, -46.63, "Loja"))),
        (telegram, "album", "two", Content(media=(image, image))),
        (telegram, "typing", "", None),
        (telegram, "text", "long " * 2000, Content(long_text=LongText.SPLIT)),
        (instagram, "image", "a caption", Content(media=(image,))),
    ]
    for n, (recipient, kind, text, content) in enumerate(sent):
        message = text_message(unique, n, recipients=(recipient,), kind=kind, text=text, content=content)
        produce("messages", unique, codec.encode(message))
    wanted = {f"{unique}-{n}": "SENT" if sent[n][0] is telegram else "READ" for n in range(len(sent))}
    await_true(
        lambda: {id_: statuses(running, id_) for id_ in wanted} == {id_: [s] for id_, s in wanted.items()},
        "all to end",
        40,
    )
    with psycopg.connect(running.settings.postgres_url) as connection:
        rows = connection.execute(
            "select kind, text, content from messages where conversation_id = %s order by seq", (unique,)
        ).fetchall()
    assert [(kind, text, from_json(content)) for kind, text, content in rows] == [each[1:] for each in sent]


def test_content_that_contradicts_itself_gets_no_number(
    running: Running, produce: Callable[..., None], unique: str
) -> None:
    nothing = text_message(unique, 0, kind="image", text="a caption without an image")
    nowhere = text_message(unique, 1, kind="location", text="", content=Content(location=Location(91.0, 0.0)))
    for message in (nothing, nowhere, text_message(unique, 2)):
        produce("messages", unique, codec.encode(message))
    await_true(lambda: statuses(running, f"{unique}-2") == ["READ"], "the good one to be read", 30)
    letters = [letter for letter in dead_letters(running) if letter.key == unique.encode()]
    assert [letter.cause for letter in letters] == ["contradictory_content"] * 2
    assert "the location does not exist" in letters[1].detail
    with psycopg.connect(running.settings.postgres_url) as connection:
        rows = connection.execute(
            "select message_id, seq from messages where conversation_id = %s", (unique,)
        ).fetchall()
    assert rows == [(f"{unique}-2", 1)]


def test_people_and_groups_by_user_id(running: Running, produce: Callable[..., None], unique: str) -> None:
    """A group conversation reaches every member on the first channel of their preference."""
    for number, channel in enumerate(("whatsapp", "telegram")):
        contact = Contact(
            user_id=f"{unique}-u{number}",
            addresses=(Address(channel=channel, address=f"4155500{number}"),),
            updated_at=1,
        )
        produce("contacts", contact.user_id, codec.encode(contact))
    conversation = Conversation(conversation_id=unique, members=(f"{unique}-u0", f"{unique}-u1"), updated_at=1)
    produce("conversations", unique, codec.encode(conversation))
    await_true(lambda: get(f"{running.url('core')}/tables/conversations/{unique}")[0] == 200, "the group", 20)
    produce("messages", unique, codec.encode(text_message(unique, recipients=())))
    await_true(lambda: statuses(running, f"{unique}-0") == ["READ", "SENT"], "both members to have it", 30)


def test_whoever_was_produced_just_before_the_message_is_found(
    running: Running, produce: Callable[..., None], unique: str
) -> None:
    """Contact and message are in different partitions, so the worker may read the message first; the message waits, and its conversation
    with it. A message whose contact never arrives is refused and blocks no other for ever."""
    for number in range(25):
        user_id = f"{unique}-u{number}"
        contact = Contact(
            user_id=user_id, addresses=(Address(channel="whatsapp", address=f"4166{number}"),), updated_at=1
        )
        produce("contacts", user_id, codec.encode(contact))
        message = text_message(unique, number, recipients=(Recipient(user_id=user_id),))
        produce("messages", unique, codec.encode(message))
    produce("messages", unique, codec.encode(text_message(unique, 25, recipients=(Recipient(user_id=f"{unique}-x"),))))
    produce("messages", unique, codec.encode(text_message(unique, 26)))
    await_true(lambda: statuses(running, f"{unique}-26") == ["READ"], "the last one to be read", 30)
    with psycopg.connect(running.settings.postgres_url) as connection:
        rows = connection.execute(
            "select message_id, seq from messages where conversation_id = %s order by seq", (unique,)
        ).fetchall()
    assert rows == [(f"{unique}-{number}", seq) for seq, number in enumerate([*range(25), 26], 1)]
    letters = [letter for letter in dead_letters(running) if letter.key == unique.encode()]
    assert [letter.cause for letter in letters] == ["unknown_user"]
    held = sum(
        float(line.rsplit(" ", 1)[1])
        for line in get(f"{running.url('core', 'probes')}/metrics")[1].splitlines()
        if line.startswith("chat4all_events_total") and 'event="held"' in line
    )
    print(f"{held:.0f} messages were held")
    assert held, "at least the message to the unknown user"
    assert json.loads(get(f"{running.url('core')}/tables/held/")[1])["shown"] == []


def test_a_wrong_partition_is_corrected(running: Running, produce: Callable[..., None], unique: str) -> None:
    wrong = (home_partition(unique, running.settings.partitions) + 1) % running.settings.partitions
    produce("messages", unique, codec.encode(text_message(unique)), wrong)
    produce("messages", unique, codec.encode(text_message(unique, 1)))
    await_true(
        lambda: statuses(running, f"{unique}-0") + statuses(running, f"{unique}-1") == ["READ", "READ"], "both", 30
    )


def test_every_bad_input_is_a_dead_letter_and_the_rest_flows(
    running: Running, produce: Callable[..., None], unique: str
) -> None:
    """Cause, place and the original bytes; a counter; and the good message behind them is delivered."""
    good = text_message(unique)
    bad = {
        "not_avro": (unique, b'{"text": "hello"}'),
        "unknown_schema": (unique, b"\x00\x00\x00\x00\x07rest"),
        "malformed_datum": (unique, codec.encode(good)[:-4]),
        "unexpected_record": (unique, codec.encode(Conversation(conversation_id=unique, members=(), updated_at=1))),
        "no_key": (None, codec.encode(text_message(unique, 1))),
        "no_recipient": (unique, codec.encode(text_message(unique, 2, recipients=()))),
        "unknown_channel": (
            unique,
            codec.encode(text_message(unique, 3, recipients=(Recipient(channel="pigeon", address="1"),))),
        ),
        "unknown_user": (unique, codec.encode(text_message(unique, 4, recipients=(Recipient(user_id="nobody"),)))),
        "content_not_supported": (unique, codec.encode(text_message(unique, 5, text="x" * 4097))),
        "message_too_large": (unique, codec.encode(text_message(unique, 6, text="x" * 1_000_001))),
        "field_out_of_limits": (unique, codec.encode(text_message(unique, 7, message_id="i" * 129))),
    }
    home = home_partition(unique, running.settings.partitions)
    large = Producer({**running.settings.kafka.settings("tests"), "message.max.bytes": 2_000_000})
    for key, value in bad.values():
        large.produce("messages", value, key, home)
    assert large.flush(30) == 0
    produce("messages", unique, codec.encode(good))
    await_true(lambda: statuses(running, f"{unique}-0") == ["READ"], "the good message to be read", 30)
    letters = {
        letter.cause: letter for letter in dead_letters(running) if letter.value in {value for _, value in bad.values()}
    }
    assert set(letters) == set(bad)
    for cause, (key, value) in bad.items():
        letter = letters[cause]
        assert (letter.value, letter.key) == (value, key.encode() if key else None)
        assert (letter.stage, letter.source_topic, letter.source_partition) == ("route", "messages", home)
        assert letter.detail
    metrics = get(f"{running.url('core', 'probes')}/metrics")[1]
    for cause in bad:
        assert f'chat4all_dead_letters_total{{cause="{cause}",stage="route"}}' in metrics


def test_what_is_nearly_too_large_for_kafka_is_a_dead_letter_and_the_rest_flows(
    running: Running, produce: Callable[..., None], unique: str
) -> None:
    """A key of 2 MB is cut in its dead letter; a value near the topic's limit is complete in it."""
    large = Producer({**running.settings.kafka.settings("tests"), "message.max.bytes": 4_000_000})
    long_key = unique.encode().ljust(2_000_000, b"k")
    value = codec.encode(text_message(unique, 1)).ljust(record_bytes("messages") - len(unique), b"v")
    home = home_partition(unique, running.settings.partitions)
    large.produce("messages", b"not Avro", long_key, home)
    large.produce("messages", value, unique, home)
    assert large.flush(30) == 0
    produce("messages", unique, codec.encode(text_message(unique, 2)))
    await_true(lambda: statuses(running, f"{unique}-2") == ["READ"], "the good message to be read", 30)

    def letters() -> dict[bytes, DeadLetter]:
        return {each.key: each for each in dead_letters(running) if each.key and each.key.startswith(unique.encode())}

    await_true(lambda: len(letters()) == 2, "both dead letters", 30)
    cut, whole = letters()[long_key[:1024]], letters()[unique.encode()]
    assert (cut.key_length, cut.key_sha256) == (2_000_000, hashlib.sha256(long_key).hexdigest())
    assert (cut.value, cut.value_length, cut.cause) == (b"not Avro", None, "not_avro")
    assert (whole.value, whole.value_length, whole.key_length) == (value, None, None)


def started_at(running: Running) -> dict[str, str]:
    """When each worker started, by its name."""
    found = {}
    for stage in WORKERS:
        lines = get(f"{running.url(stage, 'probes')}/metrics")[1].splitlines()
        found[stage] = next(line for line in lines if line.startswith("process_start_time_seconds "))
    return found


def test_no_size_ends_a_stage(running: Running, produce: Callable[..., None], unique: str) -> None:
    """Each of these ended workers repeatedly in the past: a row, an output or a record larger than Kafka takes."""
    before = started_at(running)
    control_characters = "\x01" * 200_000
    link = Content(media=(Media("image", url=f"https://shop.example/{control_characters}"),))
    template = Content(template=Template("t", "en", body=("\x01" * 300_000,)))
    ids: dict[str, Any] = {
        "conversation_id": unique,
        "home_partition": home_partition(unique, running.settings.partitions),
    }
    beyond: list[tuple[str, Record]] = [
        ("receipts", receipt(f"{unique}-title", error_title="t" * 800_000)),
        ("deliveries.whatsapp", delivery(f"{unique}-template", kind="template", content=template, **ids)),
        ("deliveries.telegram", delivery(f"{unique}-link", channel="telegram", kind="image", content=link, **ids)),
        ("deliveries.whatsapp", delivery(f"{unique}-address", address="1" * 150_000, **ids)),
        ("conversation-log", sequenced(ref(f"{unique}-log", address="1" * 150_000), message_id=f"{unique}-log", **ids)),
        ("conversations", conversation(*(f"u{i}" for i in range(97_000)), conversation_id=unique)),
        ("messages", text_message(unique, 1, tenant_id="\x01" * 900_000)),
    ]
    for topic, content in beyond:
        produce(topic, unique, codec.encode(content), -1 if topic == "receipts" else ids["home_partition"])
    batch = Producer({**running.settings.kafka.settings("tests"), "partitioner": "murmur2_random"})
    for i in range(9000):
        for event in ("same", f"event-{i}"):
            unknown = receipt(f"{unique}-unknown", channel="telegram", event_id=f"{unique}-{event}")
            batch.produce("receipts", codec.encode(unknown), f"telegram:acc-1:{unique}-unknown")
        batch.poll(0)
    now = int(time.time() * 1000)  # old entries expire
    for i in range(4300):
        early = update(f"{unique}-{i}", delivery_id=f"{unique}-unknown", observed_at=now, **ids)
        batch.produce("status-updates", codec.encode(early), unique, ids["home_partition"])
    assert batch.flush(30) == 0
    produce("messages", unique, codec.encode(text_message(unique)))
    await_true(lambda: statuses(running, f"{unique}-0") == ["READ"], "the good message to be read", 60)

    def refused() -> Counter[tuple[str, str]]:
        key = unique.encode()
        return Counter((each.stage, each.cause) for each in dead_letters(running) if key in (each.key or b""))

    expected = {
        ("match", "too_many_waiting"): 9001 - 64, ("track", "too_many_waiting"): 4300 - 64,
        ("match", "field_out_of_limits"): 1, ("send", "field_out_of_limits"): 3,
        ("archive", "field_out_of_limits"): 1, ("analyse", "field_out_of_limits"): 1, ("route", "field_out_of_limits"): 2,
    }  # fmt: skip  # two counts a line
    await_true(lambda: refused().total() >= sum(expected.values()), "a dead letter for each", 60)
    assert refused() == expected
    assert started_at(running) == before, "no worker ended"


def test_a_wrong_signature_is_refused_and_produces_nothing(running: Running, unique: str) -> None:
    """Meta's signature over the raw body; Telegram's secret header."""
    body = json.dumps({"object": "whatsapp_business_account", "entry": [], "note": unique}).encode()
    secret = running.settings.whatsapp_app_secrets.get_secret_value().encode()
    right = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
    gateway = running.url("gateway")
    assert post(f"{gateway}/webhooks/whatsapp", body, {"X-Hub-Signature-256": "sha256=" + "0" * 64}) == 401
    assert post(f"{gateway}/webhooks/whatsapp", body, {}) == 401
    assert post(f"{gateway}/webhooks/whatsapp", body, {"X-Hub-Signature-256": right}) == 200
    assert (
        post(f"{gateway}/webhooks/telegram", b'{"update_id": 1}', {"X-Telegram-Bot-Api-Secret-Token": "wrong"}) == 401
    )
    assert post(f"{gateway}/webhooks/pigeon", b"{}", {}) == 404
    token = running.settings.whatsapp_verify_token.get_secret_value()
    challenge = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token="
    assert get(f"{gateway}/webhooks/whatsapp?{challenge}{token}") == (200, "1158201444")
    assert get(f"{gateway}/webhooks/whatsapp?{challenge}wrong")[0] == 403


def post(url: str, body: bytes, headers: dict[str, str]) -> int:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_an_inbound_message_is_kept_once(running: Running, unique: str) -> None:
    """A webhook with a person's message, posted twice, becomes one sequenced inbound message."""
    entry = {
        "id": "1",
        "changes": [
            {
                "field": "messages",
                "value": {
                    "messaging_product": "whatsapp",
                    "metadata": {
                        "phone_number_id": running.settings.whatsapp_account,
                        "display_phone_number": "15550783881",
                    },
                    "messages": [
                        {
                            "from": "15557654321",
                            "id": f"wamid.{unique}",
                            "timestamp": "1749416383",
                            "type": "text",
                            "text": {"body": unique},
                        }
                    ],
                },
            }
        ],
    }
    body = json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()
    secret = running.settings.whatsapp_app_secrets.get_secret_value().encode()
    headers = {"X-Hub-Signature-256": "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()}
    for _ in range(2):
        assert post(f"{running.url('gateway')}/webhooks/whatsapp", body, headers) == 200

    def kept() -> list[Any]:
        with psycopg.connect(running.settings.postgres_url) as connection:
            return connection.execute("select direction, sender from messages where text = %s", (unique,)).fetchall()

    await_true(lambda: kept() == [("INBOUND", "15557654321")], "the inbound message", 20)


def test_views_of_the_workers(running: Running, produce: Callable[..., None], unique: str) -> None:
    produce("messages", unique, codec.encode(text_message(unique)))
    produce("contacts", unique, None)  # a record for stage register
    await_true(lambda: statuses(running, f"{unique}-0") == ["READ"], "the message to be read", 30)
    probes = running.url("sinks", "probes")
    await_true(lambda: 'records_total{stage="register"}' in get(f"{probes}/metrics")[1], "the register", 30)
    for worker, stages in WORKERS.items():
        status, text = get(f"{running.url(worker, 'probes')}/health")
        assert (status, json.loads(text)["status"]) == (200, "ready")
        metrics = get(f"{running.url(worker, 'probes')}/metrics")[1]
        for stage in stages:
            assert f'chat4all_records_total{{stage="{stage}"}}' in metrics
        apps = [worker] if worker == "core" else stages
        shown = json.loads(get(f"{running.url(worker)}/partitions/")[1])
        assert [each["app"] for each in shown] == [app for app in apps for _ in range(running.settings.partitions)]
    core, sinks = running.url("core"), running.url("sinks")
    assert {table["table"] for table in json.loads(get(f"{core}/tables/")[1])} == set(tables("core"))
    assert {table["changelog"] for table in json.loads(get(f"{core}/tables/")[1])} == {"chat4all-core-changelog"}
    assert [table["table"] for table in json.loads(get(f"{sinks}/tables/")[1])] == ["plans"]
    row = json.loads(get(f"{core}/tables/sequences/{unique}")[1])
    assert row["row"] == {"seq": 1}
    assert get(f"{core}/tables/seen/default/{unique}/{unique}-0")[0] == 200
    assert get(f"{core}/tables/sequences/nothing")[0] == 404
    assert get(f"{core}/tables/pigeons/1")[0] == 404


def test_the_worker_shows_its_calls_and_their_answers(
    running: Running, produce: Callable[..., None], unique: str
) -> None:
    produce("messages", unique, codec.encode(text_message(unique)))
    await_true(lambda: statuses(running, f"{unique}-0") == ["READ"], "the message to be read", 30)
    core = running.url("core")
    one = json.loads(get(f"{core}/exchanges/?limit=1")[1])[0]
    assert (one["channel"], one["method"], one["status"]) == ("whatsapp", "POST", 200)
    of_one = json.loads(get(f"{core}/exchanges/?delivery={one['delivery_id']}")[1])
    assert one in of_one
    assert {each["delivery_id"] for each in of_one} == {one["delivery_id"]}
    assert json.loads(get(f"{core}/exchanges/?since={one['started_at'] + 60_000}")[1]) == []
    assert get(f"{core}/exchanges/?limit=many")[0] == 400
    lines = [line for log in running.folder.rglob("core.log") for line in log.read_text(encoding="utf-8").splitlines()]
    logged = [json.loads(line) for line in lines if '"event":"exchange"' in line]
    assert one in logged


def test_our_own_clients_confirm_and_write(running: Running, produce: Callable[..., None], unique: str) -> None:
    """Accepted when stored; a client's confirmation moves the delivery, a repeated one changes nothing; what it writes is stored."""
    silence = f"{running.url('internal')}/_control/faults"
    assert post(silence, b'{"receipt_loss": 1}', {}) == 200  # here the test is the client
    to_ana = (Recipient(channel="internal", address=f"ana-{unique}"),)
    produce("messages", unique, codec.encode(text_message(unique, recipients=to_ana)))
    await_true(lambda: statuses(running, f"{unique}-0") == ["SENT"], "the message to be stored", 30)
    with psycopg.connect(running.settings.postgres_url) as connection:
        found = connection.execute("select delivery_id from deliveries where message_id = %s", (f"{unique}-0",))
        delivery_id = next(row[0] for row in found)
    url = f"{running.url('gateway')}/webhooks/internal"
    token = tokens_in(running.settings.internal_tokens.get_secret_value())[0].token
    read = {"delivery_id": delivery_id, "address": f"ana-{unique}", "status": "read"}
    not_hers = [read | {"address": f"bob-{unique}"}, read | {"tenant_id": "acme"}]
    written = {"id": f"m-{unique}", "address": f"ana-{unique}", "kind": "text", "text": "olá"}
    body = json.dumps({"receipts": [read, read, {"status": "read"}], "messages": [written]}).encode()
    assert post(url, body, {"Authorization": "Bearer nobody"}) == 401
    others = json.dumps({"receipts": not_hers}).encode()
    assert post(url, others, {"Authorization": f"Bearer {token}"}) == 200  # stored, but of no delivery
    for _ in range(2):
        assert post(url, body, {"Authorization": f"Bearer {token}"}) == 200
    await_true(lambda: statuses(running, f"{unique}-0") == ["READ"], "the message to be read", 30)
    assert post(silence, b'{"receipt_loss": 0}', {}) == 200

    def kept() -> list[Any]:
        with psycopg.connect(running.settings.postgres_url) as connection:
            question = "select message_id from messages where conversation_id = %s and direction = 'INBOUND'"
            return connection.execute(question, (unique,)).fetchall()

    own = shown_id(f"m-{unique}", "default", f"ana-{unique}")  # two clients of a group may choose the same id
    await_true(lambda: kept() == [(f"internal:app:{own}",)], "the client's message, in the conversation with her", 20)


@pytest.mark.parametrize("channel", ["whatsapp", "telegram", "internal"])
def test_the_credentials_of_every_channel_can_be_tested(running: Running, channel: str) -> None:
    command = [sys.executable, "-m", "cli.main", "channels", "test", channel]
    asked = subprocess.run(command, capture_output=True, text=True, env=running.environment, timeout=60, check=False)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.startswith(f"{channel}: ")
    assert "until you set" not in asked.stdout


def test_schemas_are_served_like_a_registry(running: Running) -> None:
    gateway = f"http://127.0.0.1:{running.settings.gateway_probe_port}"
    assert get(f"{running.url('gateway')}/subjects")[0] == 404, "webhooks have their own port"
    latest = json.loads(get(f"{gateway}/subjects/messages-value/versions/latest")[1])
    assert (latest["id"], latest["version"]) == (1002, 2)
    assert json.loads(get(f"{gateway}/schemas/ids/1002")[1])["schema"] == latest["schema"]
    assert get(f"{gateway}/schemas/ids/9")[0] == 404


def test_a_worker_writes_no_escape_sequence_to_its_log(running: Running) -> None:
    logs = {service.name: Path(service.log) for service in running.state.services if service.name in WORKERS}
    assert set(logs) == set(WORKERS)
    assert [name for name, log in logs.items() if b"\x1b" in log.read_bytes()] == []


def test_a_short_load_with_kills_ends_well(running: Running) -> None:
    """The seeded short run of `chat4all load`: core is killed twice during the run, sinks once."""
    done = command(
        running, "load", "--count", "1500", "--rate", "150", "--duplicates", "0.05", "--seed", "7",
        "--kill", "core", "--kill", "core", "--kill", "sinks",
    )  # fmt: skip  # a command line
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SIGKILL to") == 3
    assert "OK: nothing lost" in done.stdout


NO_KAFKA = {"CHAT4ALL_KAFKA_URL": "127.0.0.1:9", "CHAT4ALL_TRACKER_KEYS": "of-this-test-" * 3}


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (("worker", "core"), {}, "CHAT4ALL_KAFKA_URL"),
        (("worker", "core"), NO_KAFKA, "Kafka at 127.0.0.1:9 cannot be reached"),
        (("gateway",), {}, "CHAT4ALL_KAFKA_URL"),
        (("prepare",), {"CHAT4ALL_KAFKA_URL": "127.0.0.1:9"}, "CHAT4ALL_POSTGRES_URL, CHAT4ALL_CLICKHOUSE_URL"),
    ],
    ids=["no setting", "unreachable", "gateway", "prepare"],
)
def test_a_wrong_start_is_one_line(arguments: tuple[str, ...], environment: dict[str, str], sentence: str) -> None:
    plain = {name: value for name, value in os.environ.items() if name == "CHAT4ALL_STATE" or "CHAT4ALL_" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *arguments],
        env=plain | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert sentence in line
