"""Receipts that say something of several deliveries, and receipts that never come, on one real stack.

The simulated people report nothing here: the test is the provider and the client.
"""

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from cli.dev_stack import compose
from schemas import codec
from schemas.client_tokens import tokens_in
from schemas.records import Message, Recipient
from schemas.settings import Settings
from stack import control
from tests.integration.test_pipeline import Running, get, post, statuses, text_message
from tests.support.engine_harness import await_true

Produce = Callable[[Message], None]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("many") / "stack"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHAT4ALL_STALLED_SECONDS", "whatsapp=2")
        state = control.start(folder, compose(folder), lambda _: None)
    started = Running(folder, Settings.model_validate(state.settings), state)
    for channel in ("whatsapp", "instagram", "internal"):
        silence = f"{started.url(channel)}/_control/faults"
        assert post(silence, b'{"receipt_loss": 1}', {}) == 200
    yield started
    control.stop(folder)


@pytest.fixture
def produce(running: Running) -> Iterator[Produce]:
    producer = Producer({**running.settings.kafka.settings("tests"), "partitioner": "murmur2_random"})

    def send(message: Message) -> None:
        producer.produce("messages", codec.encode(message), message.conversation_id.encode())
        assert producer.flush(30) == 0

    yield send
    producer.flush(10)


def ask(running: Running, question: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(running.settings.postgres_url) as connection:
        return connection.execute(question.encode(), values).fetchall()


def statuses_in_order(running: Running, unique: str) -> list[str]:
    rows = ask(running, "select status from deliveries where conversation_id = %s order by seq", unique)
    return [row[0] for row in rows]


def cursors(running: Running, unique: str) -> list[tuple[Any, ...]]:
    question = "select last_delivered_seq, last_read_seq, newest_seq from cursors where conversation_id = %s"
    return ask(running, question, unique)


def counted(running: Running, event: str) -> float:
    """How often track has counted an event since the worker started."""
    name = f'chat4all_events_total{{event="{event}",stage="track"}}'
    lines = get(f"{running.url('core', 'probes')}/metrics")[1].splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def send_three(running: Running, produce: Produce, unique: str, recipient: Recipient) -> None:
    for n in range(3):
        produce(text_message(unique, n, recipients=(recipient,)))
    await_true(lambda: statuses_in_order(running, unique) == ["SENT"] * 3, "all three to be sent", 30)


def report(running: Running, address: str, unique: str, **up_to: int) -> None:
    token = tokens_in(running.settings.internal_tokens.get_secret_value())[0].token
    body = {"cursors": [{"conversation_id": unique, "address": address, **up_to}]}
    url = f"{running.url('gateway')}/webhooks/internal"
    assert post(url, json.dumps(body).encode(), {"Authorization": f"Bearer {token}"}) == 200


def test_a_client_reports_how_far_it_has_read(running: Running, produce: Produce, unique: str) -> None:
    """Beyond the newest message it is clamped, backwards it is ignored, of a stranger it is nothing; each is counted."""
    ana = f"ana-{unique}"
    send_three(running, produce, unique, Recipient(channel="internal", address=ana))
    report(running, ana, unique, read_up_to=2, delivered_up_to=1000)
    await_true(lambda: cursors(running, unique) == [(3, 2, 3)], "the cursors", 20)
    await_true(lambda: statuses_in_order(running, unique) == ["READ", "READ", "DELIVERED"], "the statuses", 20)
    await_true(lambda: counted(running, "report_clamped") == 1, "the clamped report to be counted", 10)
    report(running, ana, unique, read_up_to=1)
    report(running, f"bia-{unique}", unique, read_up_to=1)
    await_true(lambda: counted(running, "report_backwards") == 1, "the report backwards to be counted", 10)
    await_true(lambda: counted(running, "report_unknown") == 1, "the stranger's report to be counted", 10)
    report(running, ana, unique, read_up_to=3)
    await_true(lambda: cursors(running, unique) == [(3, 3, 3)], "the newest cursors", 20)
    await_true(lambda: statuses_in_order(running, unique) == ["READ"] * 3, "the statuses", 20)


def test_a_read_on_instagram_covers_what_came_before(running: Running, produce: Produce, unique: str) -> None:
    send_three(running, produce, unique, Recipient(channel="instagram", address="17841400000000002"))
    question = "select provider_message_id from deliveries where conversation_id = %s order by seq"
    await_true(lambda: all(row[0] for row in ask(running, question, unique)), "the provider's ids", 20)
    second = ask(running, question, unique)[1][0]
    item = {"timestamp": int(time.time() * 1000), "read": {"mid": second}}
    entry = {"id": running.settings.instagram_account, "time": 0, "messaging": [item]}
    body = json.dumps({"object": "instagram", "entry": [entry]}).encode()
    secret = running.settings.instagram_app_secrets.get_secret_value().split(",")[0].encode()
    signature = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
    assert post(f"{running.url('gateway')}/webhooks/instagram", body, {"X-Hub-Signature-256": signature}) == 200
    await_true(lambda: cursors(running, unique) == [(None, 2, 3)], "the cursors", 20)
    await_true(lambda: statuses_in_order(running, unique) == ["READ", "READ", "SENT"], "the statuses", 20)


def test_a_delivery_without_a_receipt_stalls_until_one_comes(running: Running, produce: Produce, unique: str) -> None:
    produce(text_message(unique))
    await_true(lambda: statuses(running, f"{unique}-0") == ["SENT"], "the message to be sent", 30)
    stalled = "select provider_message_id from stalled_deliveries where conversation_id = %s"
    await_true(lambda: len(ask(running, stalled, unique)) == 1, "the delivery to stall", 90)
    assert statuses(running, f"{unique}-0") == ["SENT"], "a label, never a status"
    assert counted(running, "stalled") == 1
    delivery_id = ask(running, "select delivery_id from deliveries where conversation_id = %s", unique)[0][0]
    assert get(f"{running.url('core')}/tables/stalled/{delivery_id}")[0] == 200
    ((provider_id,),) = ask(running, stalled, unique)
    status = {
        "id": provider_id,
        "status": "delivered",
        "timestamp": str(int(time.time())),
        "recipient_id": "15550001234",
    }
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "1", "phone_number_id": running.settings.whatsapp_account},
        "statuses": [status],
    }
    body = json.dumps(
        {
            "object": "whatsapp_business_account",
            "entry": [{"id": "1", "changes": [{"field": "messages", "value": value}]}],
        }
    ).encode()
    secret = running.settings.whatsapp_app_secrets.get_secret_value().split(",")[0].encode()
    signature = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
    assert post(f"{running.url('gateway')}/webhooks/whatsapp", body, {"X-Hub-Signature-256": signature}) == 200
    await_true(lambda: statuses(running, f"{unique}-0") == ["DELIVERED"], "the late receipt", 20)
    assert ask(running, stalled, unique) == []
    assert counted(running, "stalled_cleared") == 1
    assert get(f"{running.url('core')}/tables/stalled/{delivery_id}")[0] == 404
