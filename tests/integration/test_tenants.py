"""Tenants on one real stack: equal ids in several conversations and tenants; keys, directions and accounts of another tenant.

All tests of this file share one stack, with the internal account listed for tenant `acme`; other tenants are named like the test.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import clickhouse_connect
import psycopg
import pytest
from confluent_kafka import Producer

from cli.dev_stack import calls_log, compose
from schemas import codec
from schemas.client_tokens import tokens_in
from schemas.keys import contact_key, conversation_key, message_key
from schemas.partitions import home_partition
from schemas.records import Address, Contact, Conversation, DeadLetter, Direction, Message, Recipient
from schemas.settings import Settings
from stack import control
from tests.integration.test_pipeline import Running, command, dead_letters, get, post, text_message
from tests.support.engine_harness import await_true

Produce = Callable[..., None]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("tenants") / "stack"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHAT4ALL_ACCOUNTS", "internal:app=acme")
        state = control.start(folder, compose(folder), lambda _: None)
    yield Running(folder, Settings.model_validate(state.settings), state)
    control.stop(folder)


@pytest.fixture
def produce(running: Running) -> Iterator[Produce]:
    """Produces a record as its tenant's application would, or under another key."""
    producer = Producer({**running.settings.kafka.settings("tests"), "partitioner": "murmur2_random"})

    def send(topic: str, content: Message | Conversation | Contact, key: str | None = None) -> None:
        if isinstance(content, Contact):
            own = contact_key(content.tenant_id, content.user_id)
        else:
            own = conversation_key(content.tenant_id, content.conversation_id)
        producer.produce(topic, codec.encode(content), (own if key is None else key).encode())
        assert producer.flush(30) == 0

    yield send
    producer.flush(10)


def in_postgres(running: Running, question: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(running.settings.postgres_url) as connection:
        return connection.execute(question.encode(), values).fetchall()


def calls(running: Running, text: str) -> list[dict[str, Any]]:
    """Calls to WhatsApp whose text begins with this name in brackets."""
    lines = calls_log(running.folder, "whatsapp").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return [call for call in found if call.get("text_key") == text]


def letters_of(running: Running, *values: Message | Conversation) -> list[DeadLetter]:
    """The dead letters of these records."""
    wanted = {codec.encode(each) for each in values}
    return [letter for letter in dead_letters(running) if letter.value in wanted]


def apart(running: Running, tenant_id: str, unique: str) -> tuple[str, str]:
    """Two conversations of a tenant whose homes are different partitions."""
    count = running.settings.partitions
    first = f"{unique}-a"
    home = home_partition(conversation_key(tenant_id, first), count)
    others = (f"{unique}-b{n}" for n in range(1000))
    return first, next(c for c in others if home_partition(conversation_key(tenant_id, c), count) != home)


def test_the_same_id_in_two_conversations_is_two_messages_everywhere(
    running: Running, produce: Produce, unique: str
) -> None:
    """On different partitions. In the past both had one delivery id: called twice, stored once, and counted at random."""
    conversations = apart(running, unique, unique)
    for conversation_id in conversations:
        sent = text_message(unique, tenant_id=unique, conversation_id=conversation_id)
        for _ in range(2):
            produce("messages", sent)
    deliveries = "select conversation_id, status, delivery_id from deliveries where tenant_id = %s order by 1"

    def ended() -> Sequence[tuple[Any, ...]]:
        return [row[:2] for row in in_postgres(running, deliveries, unique)]

    await_true(lambda: ended() == [(each, "READ") for each in sorted(conversations)], "both to be read", 30)
    assert len({row[2] for row in in_postgres(running, deliveries, unique)}) == 2
    assert len(calls(running, f"{unique}-0")) == 2
    kept = "select conversation_id, message_id, seq from messages where tenant_id = %s order by 1"
    assert in_postgres(running, kept, unique) == [(each, f"{unique}-0", 1) for each in sorted(conversations)]
    assert in_postgres(running, "select * from message_conflicts where tenant_id = %s", unique) == []
    assert (
        'chat4all_events_total{event="message_id_reused",stage="archive"} 1.0'
        in get(f"{running.url('sinks', 'probes')}/metrics")[1]
    )

    client = clickhouse_connect.get_client(dsn=running.settings.clickhouse_url)
    query = (
        "select messages, accepted, read from report_delivery"
        "(since = '2001-01-01 00:00:00', until = '2200-01-01 00:00:00', tenant = '', channel = '', account = '')"
        f" where tenant_id = '{unique}'"
    )
    await_true(lambda: client.query(query).result_rows == [(2, 2, 2)], "ClickHouse to count two messages", 20)
    client.close()

    shown = command(running, "message", "show", f"{unique}-0", "--tenant", unique)
    assert "2 messages have this id" in shown.stdout
    assert all(f"in conversation {each}" in shown.stdout for each in conversations)
    seen = message_key(unique, conversations[0], f"{unique}-0")
    assert get(f"{running.url('core')}/tables/seen/{seen}")[0] == 200
    assert get(f"{running.url('core')}/tables/sequences/{conversation_key(unique, conversations[0])}")[0] == 200


def test_no_tenant_takes_the_place_of_anothers_members_and_people(
    running: Running, produce: Produce, unique: str
) -> None:
    """The same conversation, user and message id for both; then one under the other's keys."""
    theirs = {"default": "15550000001", unique: "15550000002"}
    for tenant_id, address in theirs.items():
        addresses = (Address(channel="whatsapp", address=address),)
        produce("contacts", Contact(tenant_id=tenant_id, user_id=unique, addresses=addresses, updated_at=1))
        produce(
            "conversations", Conversation(tenant_id=tenant_id, conversation_id=unique, members=(unique,), updated_at=1)
        )
    key = conversation_key("default", unique)
    usurper = Conversation(tenant_id=unique, conversation_id=unique, members=("nobody",), updated_at=2)
    produce("conversations", usurper, key)
    elsewhere = (Address(channel="whatsapp", address="15559999999"),)
    produce("contacts", Contact(tenant_id=unique, user_id=unique, addresses=elsewhere, updated_at=2), key)
    await_true(lambda: len(letters_of(running, usurper)) == 1, "the other's members to be refused", 20)
    (letter,) = letters_of(running, usurper)
    assert (letter.cause, letter.tenant_id, letter.source_topic) == ("wrong_key", unique, "conversations")
    assert repr(f"{unique}/{unique}") in letter.detail

    for tenant_id in theirs:
        produce("messages", text_message(unique, tenant_id=tenant_id, recipients=()))
    question = "select tenant_id, address, status, seq from deliveries where message_id = %s order by 1"
    expected = [(tenant_id, address, "READ", 1) for tenant_id, address in sorted(theirs.items())]
    await_true(lambda: in_postgres(running, question, f"{unique}-0") == expected, "each to reach its own", 30)
    assert sorted(call["recipient"] for call in calls(running, f"{unique}-0")) == sorted(theirs.values())
    log = "".join(path.read_text(encoding="utf-8") for path in running.folder.rglob("core.log"))
    assert "record not taken" in log
    assert "the record is of contact ***: set its key to that, not to ***" in log  # the log does not name the contact


def test_nobody_but_match_tells_what_people_wrote(running: Running, produce: Produce, unique: str) -> None:
    forged = text_message(unique, 0, direction=Direction.INBOUND, sender="15557654321", recipients=())
    misplaced = text_message(unique, 1)
    produce("messages", forged)
    produce("conversation-inbound", misplaced)
    produce("messages", text_message(unique, 2))
    await_true(lambda: len(letters_of(running, forged, misplaced)) == 2, "both to be refused", 20)
    assert {(each.cause, each.source_topic) for each in letters_of(running, forged, misplaced)} == {
        ("inbound_not_allowed", "messages"),
        ("inbound_not_allowed", "conversation-inbound"),
    }
    question = "select message_id, seq, direction from messages where conversation_id = %s"
    await_true(
        lambda: in_postgres(running, question, unique) == [(f"{unique}-2", 1, "OUTBOUND")], "the good one alone", 20
    )


def test_an_account_sends_and_receives_for_its_tenant_alone(running: Running, produce: Produce, unique: str) -> None:
    to_ana = (Recipient(channel="internal", address=f"ana-{unique}"),)
    by_name = (Recipient(channel="internal", address=f"ana-{unique}", account="app"),)
    refused = [text_message(unique, n, recipients=to) for n, to in enumerate((to_ana, by_name))]
    for each in refused:
        produce("messages", each)
    produce("messages", text_message(unique, 2, tenant_id="acme", recipients=to_ana))
    question = "select tenant_id, account, status from deliveries where conversation_id = %s"
    await_true(
        lambda: in_postgres(running, question, unique) == [("acme", "app", "READ")], "acme's message to be read", 30
    )
    await_true(lambda: len(letters_of(running, *refused)) == 2, "the others to be refused", 20)
    assert {letter.cause for letter in letters_of(running, *refused)} == {"account_not_yours"}

    token = tokens_in(running.settings.internal_tokens.get_secret_value())[0].token
    written = {"id": f"m-{unique}", "address": f"ana-{unique}", "kind": "text", "text": "olá"}
    body = json.dumps({"messages": [written]}).encode()
    url = f"{running.url('gateway')}/webhooks/internal"
    assert post(url, body, {"Authorization": f"Bearer {token}"}) == 200
    of_another = json.dumps({"messages": [written | {"tenant_id": "default"}]}).encode()
    assert post(url, of_another, {"Authorization": f"Bearer {token}"}) == 403
    inbound = "select tenant_id, direction from messages where conversation_id = %s order by seq"
    await_true(
        lambda: in_postgres(running, inbound, unique) == [("acme", "OUTBOUND"), ("acme", "INBOUND")],
        "the client's message, in the conversation that acme has with them",
        20,
    )
    assert get(f"{running.url('core')}/tables/sequences/acme/{unique}")[0] == 200
