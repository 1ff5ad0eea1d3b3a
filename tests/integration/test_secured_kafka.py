"""Kafka with TLS, SCRAM and client certificates: every client of the product connects; a refused process reports why in one line."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaConsumer
from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from pipelines import topics
from pipelines.acknowledged_producer import AcknowledgedProducer, OutgoingRecord
from pipelines.engine.faust.credentials import credentials
from pipelines.kafka_acls import Rule, plain
from schemas.environment import foreign
from schemas.kafka_access import KafkaAccess
from schemas.kafka_reachability import KafkaReachability, Unreached
from schemas.settings import Settings
from stack import kafka_listeners, kafka_server, kafka_users
from stack.certificates import Certificates
from stack.ports import free_port
from stack.service import Child, Service
from tests.support.engine_harness import await_true

SECONDS = 30.0
USER = "core"
PARTITIONS = 2
RULES = (Rule("topic", "messages", ("READ", "WRITE")), Rule("group", "own", ("READ",)))


class Secured(NamedTuple):
    """The broker, and two accesses to it: as a user with a password, and as the admin with a certificate."""

    settings: dict[str, Any]
    password: Path
    admin: KafkaAccess

    def as_user(self, **more: Any) -> KafkaAccess:
        return Settings.model_validate(
            {**self.settings, "kafka_user": USER, "kafka_password": self.password.read_text(encoding="ascii"), **more}
        ).kafka

    def as_admin(self, **more: Any) -> Settings:
        own = {
            "kafka_url": self.admin.url,
            "kafka_security_protocol": "SSL",
            "kafka_ca_file": self.admin.ca_file,
            "kafka_certificate_file": self.admin.certificate_file,
        }
        return Settings.model_validate({"partitions": PARTITIONS, **own, **more})


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    child = Child(kafka_server.service(folder / "kafka", locks="secured"))
    child.start()
    try:
        child.wait()
        admin = kafka_listeners.admin(folder / "kafka", child.service.parts[kafka_listeners.MUTUAL])
        kafka_users.apply(admin, kafka_users.passwords(folder, [USER]), plain({USER: RULES}))
        found = Secured(dict(child.service.settings), kafka_users.password_file(folder, USER), admin)
        topics.create(found.as_admin())
        yield found
    finally:
        child.stop()


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An unknown authority."""
    made = Certificates(tmp_path_factory.mktemp("stranger"))
    made.issue(USER)
    return made


def test_a_certificate_gets_in_and_prepares(secured: Secured) -> None:
    assert topics.create(secured.as_admin()) == set()
    assert topics.raise_limits(secured.as_admin()) == {}
    topics.check(secured.as_admin(), {"messages", "inbound"})


async def test_a_password_gets_in_to_produce_and_to_read(secured: Secured) -> None:
    producer = AcknowledgedProducer(secured.as_user(), asyncio.get_running_loop())
    assert await producer.produce([OutgoingRecord("messages", b"key", b"value", 1)]) == []
    await producer.close()
    settings = secured.as_user().settings("test", group_id="own", auto_offset_reset="earliest")
    consumer = Consumer(settings)
    consumer.assign([TopicPartition("messages", 1, 0)])
    [record] = await asyncio.to_thread(consumer.consume, 1, SECONDS)
    consumer.close()
    assert (record.error(), record.value()) == (None, b"value")


@pytest.mark.parametrize("who", ["password", "certificate"])
async def test_faust_s_client_gets_in(secured: Secured, who: str) -> None:
    access = secured.as_user() if who == "password" else secured.as_admin().kafka
    settings = credentials_to_aiokafka_auth(credentials(access))
    consumer = AIOKafkaConsumer("messages", bootstrap_servers=access.url, group_id="own", **settings)
    async with asyncio.timeout(SECONDS), consumer:
        await consumer.seek_to_beginning()
        assert {partition.topic for partition in consumer.assignment()} == {"messages"}


async def test_what_a_user_may_not_do_is_refused(secured: Secured) -> None:
    consumer = Consumer(secured.as_user().settings("test", group_id="own"))
    error = consumer.list_topics("receipts", timeout=SECONDS).topics["receipts"].error
    consumer.close()
    assert error is not None
    assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
    admin = AdminClient(secured.as_user().settings("test"))
    assert set(admin.list_topics(timeout=SECONDS).topics) == {"messages"}


def test_a_rule_of_an_earlier_start_is_taken_back(secured: Secured) -> None:
    """ACLs stay with stored data, and the next release may have fewer."""

    def seen() -> set[str]:
        return set(AdminClient(secured.as_user().settings("test")).list_topics(timeout=SECONDS).topics)

    known = {USER: secured.password.read_text(encoding="ascii")}
    kafka_users.apply(secured.admin, known, plain({USER: (*RULES, Rule("topic", "inbound", ("READ",)))}))
    await_true(lambda: seen() == {"messages", "inbound"}, "the broker to know the wider rules", SECONDS)
    kafka_users.apply(secured.admin, known, plain({USER: RULES}))
    await_true(lambda: seen() == {"messages"}, "the broker to know the narrower rules", SECONDS)


def why_not(access: KafkaAccess) -> str:
    reach = KafkaReachability(access)
    with pytest.raises(Unreached) as refused:
        reach.metadata(AdminClient(reach.settings("test")), 4.0)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_wrong_password_is_one_line(secured: Secured) -> None:
    access = secured.as_user(kafka_password="wrong-one")
    assert why_not(access) == (
        f"Kafka at {access.url} refuses user core: unknown user or wrong password; look at CHAT4ALL_KAFKA_USER and "
        "CHAT4ALL_KAFKA_PASSWORD (or its _FILE)"
    )


def test_an_unknown_authority_is_one_line(secured: Secured, stranger: Certificates) -> None:
    access = secured.as_user(kafka_ca_file=str(stranger.ca))
    assert why_not(access) == (
        f"Kafka at {access.url}: its certificate is not signed by an authority in {stranger.ca}; look at CHAT4ALL_KAFKA_CA_FILE"
    )


def test_another_mechanism_another_protocol_and_no_certificate_are_one_line_each(secured: Secured) -> None:
    plain_text = KafkaAccess(str(secured.settings["kafka_url"]))
    assert why_not(plain_text).endswith(" closes PLAINTEXT connections; look at CHAT4ALL_KAFKA_SECURITY_PROTOCOL")
    mechanism = why_not(secured.as_user(kafka_sasl_mechanism="PLAIN"))
    assert mechanism.endswith(" does not accept PLAIN; look at CHAT4ALL_KAFKA_SASL_MECHANISM")
    anonymous = why_not(secured.as_admin(kafka_certificate_file="").kafka)
    assert anonymous.endswith(" requires a client certificate that it trusts; look at CHAT4ALL_KAFKA_CERTIFICATE_FILE")


def test_a_certificate_of_ours_that_the_broker_does_not_believe_is_one_line(
    secured: Secured, stranger: Certificates
) -> None:
    for certificate in (stranger.folder / f"{USER}.pem", stranger.expired("late")):
        reason = why_not(secured.as_admin(kafka_certificate_file=str(certificate)).kafka)
        assert reason.endswith(" requires a client certificate that it trusts; look at CHAT4ALL_KAFKA_CERTIFICATE_FILE")


@pytest.fixture
def before_kafka(kafka_url: str, tmp_path: Path) -> Iterator[Any]:
    """Starts a TLS proxy with a bad certificate in front of the ordinary Kafka; gives the access."""
    children: list[Child] = []

    def start(certificate: Path, authority: Path) -> KafkaAccess:
        port = free_port()
        argv = [sys.executable, "-m", "stack.tls_front", "--certificate", str(certificate)]
        fronts = [f"kafka={port}:{kafka_url.rpartition(':')[2]}"]
        children.append(Child(Service(name="tls", folder=tmp_path, url="", steps=[[*argv, *fronts]], probe=lambda: "")))
        children[-1].start()
        access = KafkaAccess(f"127.0.0.1:{port}", protocol="SSL", ca_file=str(authority))
        await_true(lambda: "cannot be reached" not in why_not(access), "TLS to be there", SECONDS)
        return access

    yield start
    for child in children:
        child.stop()


def test_an_expired_certificate_and_another_name_are_one_line_each(before_kafka: Any, tmp_path: Path) -> None:
    made = Certificates(tmp_path / "certificates")
    late, other = made.expired("late"), made.issue("other", ("kafka.example",))
    access = before_kafka(late, made.ca)
    assert why_not(access) == f"Kafka at {access.url}: its certificate has expired; it needs a new one"
    access = before_kafka(other, made.ca)
    assert why_not(access) == (
        f"Kafka at {access.url}: its certificate is for another name than 127.0.0.1; look at CHAT4ALL_KAFKA_URL"
    )


@pytest.mark.parametrize("arguments", [("worker", "core"), ("gateway",)], ids=" ".join)
def test_a_process_that_is_not_let_in_ends_with_one_line(
    secured: Secured, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """It prints none of its secrets."""
    (tmp_path / "password").write_text("wrong-and-never-printed\n", encoding="utf-8")
    environment = foreign() | {f"CHAT4ALL_{name.upper()}": str(value) for name, value in secured.settings.items()}
    environment["CHAT4ALL_TRACKER_KEYS"] = "of-this-test-" * 3
    environment |= {"CHAT4ALL_KAFKA_USER": USER, "CHAT4ALL_KAFKA_PASSWORD_FILE": str(tmp_path / "password")}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *arguments],
        env={**environment, "CHAT4ALL_STATE": str(tmp_path / "none.json")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.strip().splitlines()
    assert "refuses user core" in line
    assert "never-printed" not in done.stdout + done.stderr
