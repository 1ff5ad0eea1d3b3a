"""The programs of docs/produce.md, unchanged, against a real Kafka: what they produce is a Message."""

import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # exported there, not in its __all__

from benchmarks.engine.environments import JARS
from connectors.registry import CHANNELS
from pipelines import topics
from schemas import codec
from schemas.catalog import SCHEMAS
from schemas.kafka_access import KafkaAccess
from schemas.message_validation import contradiction
from schemas.partitions import home_partition
from schemas.records import Direction, Message, Recipient
from schemas.settings import Settings
from stack import kafka_jars, kafka_server
from stack.service import Child
from tests.support.builders import delivery
from tests.support.source_tree import REPOSITORY, ROOMS

PAGE = (REPOSITORY / "docs" / "produce.md").read_text(encoding="utf-8")
SCHEMA = REPOSITORY / "schemas" / "avro" / "message.v2.avsc"
PARTITIONS = 12
PEOPLE = [("whatsapp", "12025550123"), ("telegram", "5550101"), ("telegram", "5550102")]


def program(language: str, path: Path) -> Path:
    """The page's program in that language, as a file."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def topic(kafka_url: str, unique: str) -> str:
    admin = AdminClient(KafkaAccess(kafka_url).settings("test"))
    admin.create_topics([NewTopic(unique, PARTITIONS, 1)])[unique].result(30)
    return unique


def records(kafka_url: str, topic: str, count: int) -> Iterator[Any]:
    """The first `count` records of a topic, wherever they are; fails after 30 s without them."""
    consumer = Consumer({**KafkaAccess(kafka_url).settings("test"), "group.id": topic, "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    end = time.monotonic() + 30
    try:
        while count and time.monotonic() < end:
            record = consumer.poll(0.5)
            if record is not None:
                assert record.error() is None
                count -= 1
                yield record
        assert count == 0
    finally:
        consumer.close()


def check(kafka_url: str, topic: str, printed: list[str], greeting: str) -> None:
    """Every printed id is one message, whole and in its home partition."""
    found = {}
    for record in records(kafka_url, topic, len(printed)):
        message = codec.decode(record.value(), Message)
        assert record.key().decode() == message.conversation_id
        assert record.partition() == home_partition(message.conversation_id, PARTITIONS)
        found[message.message_id] = message
    assert len(printed) == len(PEOPLE)
    for message_id, (channel, address) in zip(printed, PEOPLE, strict=True):
        message = found[message_id]
        assert message.recipients == (Recipient(channel=channel, address=address),)
        assert (message.text, message.kind, message.tenant_id) == (greeting, "text", "default")
        assert message.direction is Direction.OUTBOUND
        assert abs(time.time() * 1000 - message.requested_at) < 120_000


def run(command: list[str], folder: Path, **more: str) -> list[str]:
    """Runs a program in an empty folder, away from our packages; returns the lines it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CHAT4ALL"))}
    environment |= more
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()


def test_the_python_producer(kafka_url: str, topic: str, tmp_path: Path) -> None:
    file = program("python", tmp_path / "producer.py")
    assert not re.search(rf"^(from|import) ({'|'.join(ROOMS)})\b", file.read_text(encoding="utf-8"), re.MULTILINE)
    printed = run([sys.executable, str(file), kafka_url, str(SCHEMA), topic], tmp_path)
    check(kafka_url, topic, printed, "Hello from Python. Olá! 👋")


def test_the_producers_know_a_password_as_the_kafka_of_a_stack_wants_it(tmp_path: Path) -> None:
    child = Child(kafka_server.service(tmp_path / "kafka", locks="password"))
    child.start()
    try:
        child.wait()
        settings = Settings.model_validate(dict(child.service.settings))
        topics.create(settings)
        who = {"KAFKA_USER": settings.kafka_user, "KAFKA_PASSWORD": settings.kafka_password.get_secret_value()}
        end = [settings.kafka_url, str(SCHEMA), "messages"]
        printed = run([sys.executable, str(program("python", tmp_path / "producer.py")), *end], tmp_path, **who)
        assert len(printed) == len(PEOPLE), "each acknowledged"
        if shutil.which("javac") is not None:
            assert len(run([*java(tmp_path), *end], tmp_path, **who)) == len(PEOPLE)
    finally:
        child.stop()


def test_a_producer_that_cannot_reach_kafka_says_so(tmp_path: Path) -> None:
    """What the page's program promises: exit code 1 and a sentence, never silence."""
    file = program("python", tmp_path / "producer.py")
    text = file.read_text(encoding="utf-8").replace("flush(30)", "flush(1)")
    file.write_text(text, encoding="utf-8")
    command = [sys.executable, str(file), "127.0.0.1:1", str(SCHEMA), "messages"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "3 not acknowledged" in ended.stderr


@pytest.mark.skipif(shutil.which("javac") is None, reason="no Java compiler (a JDK) on this machine")
def test_the_java_producer(kafka_url: str, topic: str, tmp_path: Path) -> None:
    printed = run([*java(tmp_path), kafka_url, str(SCHEMA), topic], tmp_path)
    check(kafka_url, topic, printed, "Hello from Java. Olá! 👋")


def java(tmp_path: Path) -> list[str]:
    """The page's Java program, without its arguments."""
    file = program("java", tmp_path / "Producer.java")
    runtime = Path(shutil.which("javac") or "").resolve().with_name("java")
    tidy = ["-XX:+PerfDisableSharedMem", f"-Djava.io.tmpdir={tmp_path}", "-Dfile.encoding=UTF-8"]
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    jars = os.pathsep.join(map(str, [*java_libraries(), *kafka_server.jars()]))
    return [str(runtime), *tidy, quiet, "-cp", jars, str(file)]


def java_libraries() -> list[Path]:
    """Avro of the version the page names; the Kafka client and Jackson are in the stack's own jars, of the version it names too."""
    assert f"org.apache.kafka:kafka-clients:{kafka_server.VERSION}" in PAGE
    (coordinate,) = re.findall(r"org\.apache\.avro:avro:[\d.]+", PAGE)
    avro = [jar for jar in kafka_jars.locked(JARS) if jar.coordinate == coordinate]
    return kafka_jars.ready(kafka_server.cache() / avro[0].name.removesuffix(".jar"), jars=avro)


@pytest.mark.parametrize("shown", re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL), ids=["image", "template", "reply"])
def test_the_pages_contents_are_taken_by_whatsapp(shown: str) -> None:
    """As the page's program writes them: what is left out takes its default."""
    fields = {"message_id": "m", "conversation_id": "c", "requested_at": 1, **json.loads(shown)}
    out = io.BytesIO(
        struct.pack(">bI", 0, next(s.id for s in SCHEMAS if s.definition == json.loads(SCHEMA.read_text())))
    )
    out.seek(0, io.SEEK_END)
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(SCHEMA.read_text())), fields)
    message = codec.decode(out.getvalue(), Message)
    assert message.content is not None
    assert contradiction(message.kind, message.text, message.content) is None
    made = delivery(kind=message.kind, text=message.text, content=message.content)
    assert CHANNELS["whatsapp"].check(made) is None


def test_the_readme_shows_the_same_program() -> None:
    """What is tested here is what a newcomer copies."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"```python\n(.*?)```", readme, re.DOTALL) == re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
