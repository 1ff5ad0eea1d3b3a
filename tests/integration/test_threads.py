"""People write back, on the real stack with the simulators: each message is found in the conversation that it belongs to, once.

All tests of this file share one stack.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from cli.dev_stack import compose
from schemas import codec
from schemas.ids import inbound_conversation_id
from schemas.keys import conversation_key
from schemas.partitions import home_partition
from schemas.records import Recipient
from schemas.settings import Settings
from stack import control
from tests.integration.test_pipeline import Running, get, post, text_message
from tests.support.engine_harness import await_true

Send = Callable[..., str]
CHANNELS = ("whatsapp", "telegram", "instagram")
_ADDRESSES = itertools.count(15_550_100_001)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("threads") / "stack"
    state = control.start(folder, compose(folder), lambda _: None)
    yield Running(folder, Settings.model_validate(state.settings), state)
    control.stop(folder)


@pytest.fixture
def person() -> str:
    """An address that no other test writes to."""
    return str(next(_ADDRESSES))


@pytest.fixture
def send(running: Running) -> Iterator[Send]:
    """Sends a message and waits until the provider has taken it; returns the provider's id of it."""
    producer = Producer({**running.settings.kafka.settings("tests"), "partitioner": "murmur2_random"})

    def sent(conversation_id: str, channel: str, address: str, **changes: Any) -> str:
        to = Recipient(channel=channel, address=address)
        name = f"{conversation_id}-m"
        whole = text_message(conversation_id, message_id=name, recipients=(to,), text=f"[{name}] olá", **changes)
        producer.produce("messages", codec.encode(whole), conversation_key(whole.tenant_id, whole.conversation_id))
        assert producer.flush(30) == 0
        question = (
            "select provider_message_id from deliveries where message_id = %s and provider_message_id is not null"
        )
        await_true(lambda: len(rows(running, question, whole.message_id)) == 1, "the provider to take it", 60)
        return str(rows(running, question, whole.message_id)[0][0])

    yield sent
    producer.flush(10)


def rows(running: Running, question: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(running.settings.postgres_url) as connection:
        return connection.execute(question.encode(), values).fetchall()


def write(running: Running, channel: str, address: str, text: str, reply_to: str | None = None) -> None:
    """The person writes, and may answer the message with this provider's id."""
    url = {
        "whatsapp": running.settings.whatsapp_url,
        "telegram": running.settings.telegram_url,
        "instagram": running.settings.instagram_url,
    }[channel]
    wanted: dict[str, Any] = {"text": text}
    wanted |= {"chat_id": int(address)} if channel == "telegram" else {"from": address}
    if reply_to is not None:
        wanted["reply_to"] = int(reply_to.partition(":")[2]) if channel == "telegram" else reply_to
    assert post(f"{url}/_control/inbound", json.dumps(wanted).encode(), {}) == 202


def kept(running: Running, text: str) -> list[tuple[Any, ...]]:
    """Conversation and answered message of each inbound message with this text."""
    question = "select conversation_id, metadata->>'reply_to_message_id', direction from messages where text = %s"
    return rows(running, question, text)


def account(running: Running, channel: str) -> str:
    if channel == "telegram":
        return running.settings.telegram_token.get_secret_value().partition(":")[0]
    return running.settings.text(f"{channel}_account")


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_reply_and_a_plain_message_find_their_conversations(
    channel: str, running: Running, send: Send, person: str, unique: str
) -> None:
    """A person with two conversations answers a message of the first one; what they write next follows it."""
    first, second = f"{unique}-a", f"{unique}-b"
    answered = send(first, channel, person)
    send(second, channel, person)
    write(running, channel, person, f"{unique} plain")
    await_true(lambda: kept(running, f"{unique} plain") == [(second, None, "INBOUND")], "the latest conversation", 60)
    write(running, channel, person, f"{unique} reply", answered)
    expected = [(first, f"{first}-m", "INBOUND")]
    await_true(lambda: kept(running, f"{unique} reply") == expected, "the answered conversation", 60)
    write(running, channel, person, f"{unique} next")
    await_true(lambda: kept(running, f"{unique} next") == [(first, None, "INBOUND")], "the same one again", 60)


def test_an_unknown_person_gets_a_conversation_with_a_known_id(running: Running, person: str, unique: str) -> None:
    write(running, "whatsapp", person, f"{unique} hello")
    own = inbound_conversation_id("whatsapp", account(running, "whatsapp"), person)
    await_true(lambda: kept(running, f"{unique} hello") == [(own, None, "INBOUND")], "their own conversation", 60)
    status, text = get(f"{running.url('core')}/tables/windows/")
    assert status == 200
    homes = {row["partition"] for row in json.loads(text)["shown"]}
    assert home_partition(own, running.settings.partitions) in homes, "its partition knows the window"


def test_a_reply_to_a_message_of_nobody_waits_and_is_kept(running: Running, person: str, unique: str) -> None:
    write(running, "whatsapp", person, f"{unique} one", "wamid.nobody-knows-this")
    write(running, "whatsapp", person, f"{unique} two")
    own = inbound_conversation_id("whatsapp", account(running, "whatsapp"), person)
    await_true(lambda: kept(running, f"{unique} two") == [(own, None, "INBOUND")], "what waited behind it", 60)
    question = "select text from messages where conversation_id = %s order by seq"
    assert rows(running, question, own) == [(f"{unique} one",), (f"{unique} two",)]


def test_the_message_of_another_tenant_is_answered_in_its_conversation(
    running: Running, send: Send, person: str, unique: str
) -> None:
    """The account is shared: what a person answers says whose the answer is."""
    answered = send(unique, "whatsapp", person, tenant_id="acme")
    write(running, "whatsapp", person, f"{unique} reply", answered)
    question = "select tenant_id, conversation_id from messages where text = %s"
    await_true(lambda: rows(running, question, f"{unique} reply") == [("acme", unique)], "acme's conversation", 60)
    write(running, "whatsapp", person, f"{unique} plain")
    own = inbound_conversation_id("whatsapp", account(running, "whatsapp"), person)
    await_true(lambda: rows(running, question, f"{unique} plain") == [("default", own)], "no tenant's", 60)
