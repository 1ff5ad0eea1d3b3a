"""`chat4all up --secure`: TLS everywhere, a user and ACLs for each kind of process; the product works as without it.

One stack serves all tests of this file. Kafka's authorizer logs every refusal; in good order there is none.
"""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, KafkaError

from cli.dev_stack import OPTIONAL, SIMULATED, compose
from cli.load_run import LoadOptions, run_load
from cli.message import produce
from pipelines.kafka_acls import rules
from schemas.records import Message, Recipient
from schemas.settings import Settings, use_state
from stack import control
from stack.kafka_users import password_file
from stack.state import StackState, state_path
from tests.support import leaks
from tests.support.engine_harness import await_true

TO = {
    "whatsapp": "15550001234",
    "telegram": "5550101",
    "instagram": "17841400000000001",
    "internal": "u-made-up",
}
DENIED = re.compile(r"Principal = User:\S+ is Denied operation.*")
KNOBS = LoadOptions(
    count=500,
    rate=100.0,
    channels=tuple(SIMULATED),
    conversations=100,
    group_share=0.02,
    groups=1,
    group_size=20,
    duplicates=0.05,
    seed=1,
)


class Running(NamedTuple):
    folder: Path
    settings: Settings
    state: StackState

    def denied(self) -> list[str]:
        return DENIED.findall((self.folder / "kafka" / "kafka.log").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("secure") / "stack"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHAT4ALL_STATE", str(state_path(folder)))
        state = control.start(folder, compose(folder, secure=True, extra=OPTIONAL), lambda _: None)
        try:
            yield Running(folder, use_state(state_path(folder)), state)
            found = leaks.in_files(folder)
        finally:
            control.stop(folder)
    assert found == []


def test_one_message_the_whole_way_on_each_channel(running: Running, unique: str) -> None:
    assert set(TO) == set(SIMULATED)
    for channel, address in TO.items():
        message = Message(
            message_id=f"{unique}-{channel}",
            conversation_id=f"{unique}-{channel}",
            recipients=(Recipient(channel=channel, address=address),),
            text="olá",
            requested_at=time.time_ns() // 1_000_000,
        )
        produce(running.settings.kafka, message)

    def found() -> dict[str, str]:
        with psycopg.connect(running.settings.postgres_url) as connection:
            rows = connection.execute(
                "select channel, status from deliveries where conversation_id like %s", (f"{unique}-%",)
            ).fetchall()
        return {str(channel): str(status) for channel, status in rows}

    wanted = dict.fromkeys(TO, "READ") | {"telegram": "SENT"}
    await_true(lambda: found() == wanted, f"each message to arrive: {found()}", 40)


def test_a_load_says_0_everywhere(running: Running) -> None:
    outcome = run_load(running.folder, running.settings, KNOBS)
    assert outcome.ok, outcome.verdict
    assert running.denied() == []


def test_applications_may_write_and_not_read(running: Running) -> None:
    """The last test that uses Kafka, because Kafka refuses a client here."""
    assert running.denied() == []
    consumer = Consumer(running.settings.kafka.settings("test", group_id="chat4all-core"))
    error = consumer.list_topics("deliveries.whatsapp", timeout=10).topics["deliveries.whatsapp"].error
    consumer.close()
    assert error is not None
    assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert running.denied()


def test_every_url_has_tls(running: Running) -> None:
    settings = running.settings
    assert settings.kafka_security_protocol == "SASL_SSL"
    assert [settings.clickhouse_url[:8], settings.valkey_url[:9], settings.s3_url[:8]] == [
        "https://",
        "rediss://",
        "https://",
    ]
    assert "sslmode=verify-full" in settings.postgres_url


def test_no_password_is_in_a_command_line_or_an_environment(running: Running) -> None:
    """Except the environment of servers that take their own password from it."""
    known = [password_file(running.folder, user).read_text(encoding="ascii") for user in rules()]
    state: dict[str, Any] = json.loads(state_path(running.folder).read_text(encoding="utf-8"))
    known += [str(value) for name, value in state["settings"].items() if leaks.SECRET.search(name)]
    known += re.findall(r"://[^:/@]*:([^@/]+)@", " ".join(str(value) for value in state["settings"].values()))
    for service in running.state.services:
        visible = " ".join(psutil.Process(service.pid).cmdline())
        visible += "" if service.name in {"s3", "clickhouse"} else " ".join(environment(service.pid).values())
        assert [secret for secret in known if secret in visible] == [], service.name
    for user in rules():
        assert password_file(running.folder, user).stat().st_mode & 0o077 == 0


def environment(pid: int) -> dict[str, str]:
    return psutil.Process(pid).environ()
