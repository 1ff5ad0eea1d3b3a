"""Opting out on one real stack: words, blocks and refusals end later messages as SUPPRESSED in PostgreSQL, and what lifts them works."""

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from confluent_kafka import Producer

from cli.dev_stack import compose
from schemas import codec
from schemas.records import Message, Recipient
from schemas.settings import Settings
from stack import control
from stack.state import READY, StackState, read_state
from tests.support.engine_harness import await_true

CONFIRMED = {"*": {"confirmations": {"pt": {"stop": "Feito: nada mais.", "start": "Bem-vindo."}}}}


class Running(NamedTuple):
    folder: Path
    settings: Settings
    state: StackState
    producer: Producer

    def control(self, provider: str, name: str, **wanted: Any) -> None:
        """What a person does at a simulated provider."""
        simulators = next(each for each in self.state.services if each.name == "simulators")
        url = f"{simulators.parts[provider]}/_control/{name}"
        request = urllib.request.Request(url, json.dumps(wanted).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status in (200, 202)

    def send(self, message_id: str, recipient: Recipient, **fields: Any) -> None:
        whole: dict[str, Any] = {"conversation_id": f"c-{recipient.address}", "text": f"[{message_id}] olá"} | fields
        value = codec.encode(
            Message(message_id=message_id, recipients=(recipient,), requested_at=1_700_000_000_000, **whole)
        )
        self.producer.produce("messages", value, whole["conversation_id"])
        assert self.producer.flush(30) == 0

    def rows(self, where: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.settings.postgres_url) as connection:
            joined = "deliveries d join messages m using (conversation_id, message_id)"
            query = f"select d.status, d.reason_code, d.reason, m.text from {joined} where {where}"
            return connection.execute(query, values).fetchall()

    def of_text(self, text: str) -> list[str]:
        """The statuses of the deliveries of messages with this text."""
        return [each[0] for each in self.rows("m.text = %s", text)]

    def status(self, message_id: str) -> str | None:
        """The status of the only delivery once nothing more is to come; Telegram reports no reads."""
        found = self.rows("d.message_id = %s and (d.status <> 'SENT' or d.channel = 'telegram')", message_id)
        return found[0][0] if found and found[0][0] in ("SENT", "READ", "FAILED", "SUPPRESSED") else None

    def until(self, recipient: Recipient, unique: str, wanted: str) -> None:
        """Sends messages one after the other until one ends so: what a person does reaches the workers in the background."""
        sent = 0

        def next_ends_so() -> bool:
            nonlocal sent
            sent += 1
            message_id = f"{unique}-{recipient.address}-{wanted}-{sent}"
            self.send(message_id, recipient)
            await_true(lambda: self.status(message_id) is not None, f"{message_id} to end", 40)
            return self.status(message_id) == wanted

        await_true(next_ends_so, f"a message to be {wanted}", 90)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("opt-out") / "stack"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CHAT4ALL_OPT_OUT", json.dumps(CONFIRMED))
        state = control.start(folder, compose(folder), lambda _: None)
    settings = Settings.model_validate(state.settings)
    producer = Producer({**settings.kafka.settings("tests"), "partitioner": "murmur2_random"})
    yield Running(folder, settings, state, producer)
    control.stop(folder)


def test_a_word_on_whatsapp_and_the_word_that_lifts_it(running: Running, unique: str) -> None:
    """The ninth digit of Brazil is in the address that we send to, and not in what WhatsApp says."""
    to_ana = Recipient(channel="whatsapp", address="+5531987650001")
    running.send(f"{unique}-before", to_ana)
    await_true(lambda: running.status(f"{unique}-before") == "READ", "the first message to be read", 40)
    running.control("whatsapp", "inbound", **{"from": "553187650001", "text": "Sair."})
    running.until(to_ana, unique, "SUPPRESSED")
    (row,) = running.rows("d.status = 'SUPPRESSED' and d.address = %s limit 1", to_ana.address)
    assert row[1] == "suppressed"
    assert row[2].startswith("the person wrote a word that stops messages, at ")
    await_true(lambda: running.of_text("Feito: nada mais.") == ["READ"], "the confirmation to be read", 30)
    running.control("whatsapp", "inbound", **{"from": "553187650001", "text": "quero falar com alguém"})
    running.send(f"{unique}-still", to_ana)
    await_true(lambda: running.status(f"{unique}-still") == "SUPPRESSED", "the suppression to stay", 30)
    running.control("whatsapp", "inbound", **{"from": "553187650001", "text": "VOLTAR"})
    running.until(to_ana, unique, "READ")
    await_true(lambda: running.of_text("Bem-vindo.") == ["READ"], "the second confirmation to be read", 30)


def test_a_restart_keeps_a_suppression_and_what_was_scheduled_is_suppressed(running: Running, unique: str) -> None:
    to_bob = Recipient(channel="telegram", address="700100")
    running.control("telegram", "inbound", chat_id=700100, text="/stop")
    running.until(to_bob, unique, "SUPPRESSED")
    later = int(time.time() * 1000) + 20_000
    running.send(f"{unique}-scheduled", to_bob, not_before=later)
    before = next(each for each in running.state.services if each.name.startswith("core"))
    os.kill(before.pid, signal.SIGKILL)

    def is_back() -> bool:
        state = read_state(running.folder)
        return state is not None and any(
            each.name == before.name and each.pid != before.pid and each.status == READY for each in state.services
        )

    await_true(is_back, "core to be restarted", 90)
    running.send(f"{unique}-after", to_bob)
    await_true(lambda: running.status(f"{unique}-after") == "SUPPRESSED", "the suppression to outlive core", 60)
    await_true(lambda: running.status(f"{unique}-scheduled") == "SUPPRESSED", "the scheduled message to be due", 60)


def test_who_blocks_the_bot_gets_nothing_until_they_come_back(running: Running, unique: str) -> None:
    to_eva = Recipient(channel="telegram", address="700200")
    running.until(to_eva, unique, "SENT")
    running.control("telegram", "people", chat_id=700200, state="blocked")
    running.until(to_eva, unique, "SUPPRESSED")
    running.control("telegram", "people", chat_id=700200)
    running.until(to_eva, f"{unique}-again", "SENT")


def test_preferences_and_refusals_of_whatsapp(running: Running, unique: str) -> None:
    to_lia, to_gil = (Recipient(channel="whatsapp", address=address) for address in ("15550700300", "15550700400"))
    running.control("whatsapp", "preferences", **{"from": "15550700300", "value": "stop"})
    running.until(to_lia, unique, "SUPPRESSED")
    running.control("whatsapp", "preferences", **{"from": "15550700300", "value": "resume"})
    running.until(to_lia, unique, "READ")
    running.control("whatsapp", "people", address="15550700400", code=131026, later=True)
    running.until(to_gil, unique, "SUPPRESSED")
    failed = running.rows("d.address = %s and d.status = 'FAILED'", "15550700400")
    assert {row[1] for row in failed} == {"131026"}
    running.control("whatsapp", "people", address="15550700400")
    running.control("whatsapp", "inbound", **{"from": "15550700400", "text": "oi"})
    running.until(to_gil, f"{unique}-again", "READ")
