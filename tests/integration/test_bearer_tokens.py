"""Kafka with OAUTHBEARER: librdkafka and aiokafka connect with the token that a command prints, and with no other."""

import asyncio
import dataclasses
import re
import shlex
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError
from confluent_kafka.admin import AdminClient
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from pipelines.engine.faust.credentials import credentials
from schemas.kafka_access import KafkaAccess
from schemas.kafka_reachability import KafkaReachability, Unreached
from schemas.secret_masking import MaskedText
from stack import kafka_server
from stack.ports import answers
from stack.service import Child
from tests.support.engine_harness import await_true

SECONDS = 30.0
# Kafka's own check for development: unsigned tokens.
BEARER = """\
listener.security.protocol.map=SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=SASL_PLAINTEXT
sasl.enabled.mechanisms=OAUTHBEARER
sasl.mechanism.inter.broker.protocol=OAUTHBEARER
listener.name.sasl_plaintext.oauthbearer.sasl.jaas.config=\
org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";
"""
COMMAND = """\
#!{python}
import base64, json, time
def part(claims): return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
print(part({{"alg": "none"}}) + "." + part({{"sub": "core", "iat": time.time(), "exp": time.time() + {seconds}}}) + ".")
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    service = kafka_server.service(tmp_path_factory.mktemp("bearer") / "kafka")
    file = service.folder / "tmp" / "server.properties"
    properties = re.sub(r"(listeners=)PLAINTEXT:", r"\1SASL_PLAINTEXT:", file.read_text(encoding="utf-8"))
    file.write_text(properties + BEARER, encoding="utf-8")

    def probe() -> str:
        answers(int(service.url.rpartition(":")[2]))
        return kafka_server.VERSION

    child = Child(dataclasses.replace(service, probe=probe))
    child.start()
    try:
        child.wait()
        yield service.url
    finally:
        child.stop()


def access(url: str, folder: Path, seconds: int) -> KafkaAccess:
    command = folder / "print token"
    command.write_text(COMMAND.format(python=sys.executable, seconds=seconds), encoding="utf-8")
    command.chmod(stat.S_IRWXU)
    masked = MaskedText(shlex.quote(str(command)))
    found = KafkaAccess(url, protocol="SASL_PLAINTEXT", mechanism="OAUTHBEARER", token_command=masked)
    found.check()
    return found


def brokers(kafka: KafkaAccess) -> int:
    reach = KafkaReachability(kafka)
    client = AdminClient(reach.settings("test"))
    return len(reach.metadata(client, 5.0).brokers)


async def test_a_token_gets_in(url: str, tmp_path: Path) -> None:
    kafka = access(url, tmp_path, 300)
    await asyncio.to_thread(await_true, lambda: brokers(kafka) == 1, "Kafka to let us in", SECONDS)
    consumer = AIOKafkaConsumer(bootstrap_servers=url, **credentials_to_aiokafka_auth(credentials(kafka)))
    async with asyncio.timeout(SECONDS), consumer:
        assert await consumer.topics() == set()


async def test_without_a_token_the_member_of_a_group_tries_again(url: str, tmp_path: Path) -> None:
    """librdkafka retries too; any other exception would end aiokafka's coordinator, and with it the worker."""
    kafka = access(url, tmp_path, 300)
    (tmp_path / "print token").write_text("#!/bin/sh\nexit 7\n", encoding="utf-8")
    consumer = AIOKafkaConsumer(bootstrap_servers=url, **credentials_to_aiokafka_auth(credentials(kafka)))
    with pytest.raises(KafkaConnectionError):
        await consumer.start()
    await consumer.stop()
    access(url, tmp_path, 300)
    consumer = AIOKafkaConsumer(bootstrap_servers=url, **credentials_to_aiokafka_auth(credentials(kafka)))
    async with asyncio.timeout(SECONDS), consumer:
        assert await consumer.topics() == set()


def test_no_token_is_one_line(url: str, tmp_path: Path) -> None:
    kafka = access(url, tmp_path, 300)
    (tmp_path / "print token").write_text("#!/bin/sh\nexit 7\n", encoding="utf-8")
    with pytest.raises(Unreached, match=r"^no token for Kafka at .*: CHAT4ALL_KAFKA_TOKEN_COMMAND ended with 7$"):
        brokers(kafka)
