"""Workers of the toy stage as real processes, and what they wrote to Kafka, read back."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported there, not in its __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from pipelines.engine import offset_metadata
from pipelines.engine.kafka_names import app_id, changelog_topic
from pipelines.topics import LIMIT, declared
from schemas.kafka_access import KafkaAccess
from schemas.settings import Settings

FULL_TOKEN = "may-see-all-rows-of-tests"
PARTITIONS = 4
TABLES = ("counts", "values", "open")
REPOSITORY = Path(__file__).resolve().parents[2]


class Stored(NamedTuple):
    """A committed record of a topic."""

    partition: int
    key: bytes
    value: bytes | None


class Toy:
    """One toy stage in Kafka: its topics, its workers, its outputs."""

    def __init__(
        self,
        kafka_url: str,
        name: str,
        folder: Path,
        *,
        sources: Sequence[str] = ("in",),
        partitions: int = PARTITIONS,
    ) -> None:
        self.kafka_url = kafka_url
        self.name = name
        self.partitions = partitions
        self.sources = [f"{name}-{source}" for source in sources]
        self.source = self.sources[0]
        self.command = [sys.executable, "-m", "tests.support.toy_worker", name, "--sources", ",".join(sources)]
        self.workers: list[subprocess.Popen[bytes]] = []
        self.extra: dict[str, str] = {}  # of the environment of every worker
        self.admin = AdminClient(KafkaAccess(kafka_url).settings("test"))
        self._folder = folder
        self._create_topics()

    def _create_topics(self) -> None:
        topics = [NewTopic(topic, self.partitions, 1) for topic in (*self.sources, f"{self.name}-out")]
        topics += [
            NewTopic(self.changelog(table), self.partitions, 1, config={"cleanup.policy": "compact"})
            for table in TABLES
        ]
        known = self.admin.list_topics(timeout=10).topics
        if "dead-letters" not in known:
            topics += [t for t in declared(Settings(partitions=self.partitions)) if t.topic == "dead-letters"]
        for future in self.admin.create_topics(topics).values():
            future.result(timeout=30)

    def changelog(self, table: str) -> str:
        return changelog_topic(app_id(self.name), table)

    def environment(
        self, folder: Path, *, web_port: int = 0, probe_port: int = 0, session_seconds: float = 3.0
    ) -> dict[str, str]:
        """What a worker needs besides the test's own environment: settings, and the path to these tests."""
        return {
            "CHAT4ALL_KAFKA_URL": self.kafka_url,
            "CHAT4ALL_PARTITIONS": str(self.partitions),
            "CHAT4ALL_WEB_PORT": str(web_port),
            "CHAT4ALL_WEB_FULL_TOKEN": FULL_TOKEN,
            "CHAT4ALL_PROBE_PORT": str(probe_port),
            "CHAT4ALL_SESSION_TIMEOUT_SECONDS": str(session_seconds),
            "CHAT4ALL_DATA_DIR": os.environ.get("CHAT4ALL_DATA_DIR", str(folder)),
            "FAUST_DATADIR": str(folder.with_name(f"{folder.name}-faust")),  # must be in an existing folder
            "PYTHONPATH": str(REPOSITORY),
        }

    def start_worker(self, *options: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        name = f"worker-{len(self.workers)}"
        with (self._folder / f"{name}.log").open("wb") as log:
            worker = subprocess.Popen(
                [*self.command, *options],
                env={**os.environ, **self.environment(self._folder / name), **self.extra, **(environment or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.workers.append(worker)
        return worker

    def log(self, worker: subprocess.Popen[bytes]) -> str:
        return (self._folder / f"worker-{self.workers.index(worker)}.log").read_text(encoding="utf-8")

    def wait_ready(self, worker: subprocess.Popen[bytes]) -> None:
        await_true(lambda: "partitions taken over" in self.log(worker), "the worker to take partitions over", 60)

    def stop(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
                worker.wait()
            # pytest shows it when the test failed
            print(f"--- worker {worker.pid}, exit {worker.returncode}\n{self.log(worker)}")

    def produce(self, values: Sequence[tuple[str, bytes]], *, source: str | None = None) -> None:
        """(key, value) records to a source topic, in order, acknowledged when this returns."""
        producer = Producer(
            {
                **KafkaAccess(self.kafka_url).settings("test"),
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
            }
        )
        for key, value in values:
            producer.produce(source or self.source, value, key)
            producer.poll(0)
        assert producer.flush(30) == 0

    def outputs(self) -> dict[bytes, list[bytes]]:
        """Committed outputs by key, in order."""
        found: dict[bytes, list[bytes]] = defaultdict(list)
        for key, value in self.read(f"{self.name}-out"):
            found[key].append(value or b"")
        return found

    def table(self, name: str) -> dict[bytes, bytes]:
        """A table, replayed from its changelog."""
        rows: dict[bytes, bytes] = {}
        for key, value in self.read(self.changelog(name)):
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value
        return rows

    def read(self, topic: str) -> list[tuple[bytes, bytes | None]]:
        """Every committed record of a topic, partition by partition in order."""
        return [(key, value) for _, key, value in read_back(self.kafka_url, topic)]

    def offsets(self) -> dict[tuple[str, int], int]:
        """What the group has committed, by source partition; without waiting for open transactions."""
        group = app_id(self.name)
        found = self.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(30)
        return {(tp.topic, tp.partition): tp.offset for tp in found.topic_partitions}

    def set_offsets(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Sets offsets as `kafka-consumer-groups.sh --reset-offsets` does, when the group has no members any more."""
        group = app_id(self.name)
        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(*tp, at) for tp, at in offsets.items()])

        def is_set() -> bool:
            done = self.admin.alter_consumer_group_offsets([asked], request_timeout=60)[group].result(60)
            return all(tp.error is None for tp in done.topic_partitions)

        await_true(is_set, "a group without members", 30)

    def committed(self) -> dict[int, int]:
        """The group's committed offsets by partition of the first source."""
        return {tp.partition: tp.offset for tp in self._committed()}

    def writers(self) -> set[str]:
        """The transactional ids that committed the group's offsets last."""
        return {offset_metadata.read(tp.metadata).writer for tp in self._committed()}

    def _committed(self) -> list[TopicPartition]:
        # read_committed would wait for transactions that a crashed worker left open
        settings = {
            **KafkaAccess(self.kafka_url).settings("test"),
            "group.id": app_id(self.name),
            "isolation.level": "read_uncommitted",
        }
        consumer = Consumer(settings)
        found = consumer.committed(
            [TopicPartition(self.source, number) for number in range(self.partitions)], timeout=10
        )
        consumer.close()
        return found


def limit_topic(admin: AdminClient, topic: str, size: int) -> None:
    """Sets the record limit of a topic, as an operator may, and waits until the broker knows it."""
    entry = ConfigEntry(LIMIT, str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(timeout=30)
    asked = ConfigResource(ConfigResource.Type.TOPIC, topic)

    def is_applied() -> bool:
        return int(admin.describe_configs([asked])[asked].result(timeout=30)[LIMIT].value) == size

    await_true(is_applied, "the broker to know the limit", 10)


def read_back(kafka_url: str, topic: str) -> list[Stored]:
    """Every committed record of a topic, read_committed; each partition in its order."""
    consumer = Consumer({**KafkaAccess(kafka_url).settings("test"), "group.id": "reader", "enable.partition.eof": True})
    partitions = list(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    left, found = set(partitions), []
    while left:
        for message in consumer.consume(5000, 0.2):
            error = message.error()
            if error is None:
                found.append(Stored(message.partition() or 0, message.key() or b"", message.value()))
            else:
                assert error.code() == KafkaError._PARTITION_EOF, error
                left.discard(message.partition() or 0)
    consumer.close()
    return found


def whole(url: str) -> urllib.request.Request:
    """A request that is allowed to see texts and addresses."""
    return urllib.request.Request(url, headers={"Authorization": f"Bearer {FULL_TOKEN}"})


def ask(url: str, path: str) -> Any:
    """The answer of a worker's web view or probe, also when /health answers 503. Raises OSError when there is no answer."""
    try:
        with urllib.request.urlopen(whole(url + path), timeout=30) as answer:
            return orjson.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return orjson.loads(error.read())


def values(prefix: str, keys: int, each: int) -> tuple[list[tuple[str, bytes]], dict[str, list[bytes]]]:
    """Records to produce, with keys in rotation, and the outputs expected by key."""
    expected = {f"k{k}": [f"{prefix}{k}-{n}".encode() for n in range(each)] for k in range(keys)}
    return [(key, expected[key][n]) for n in range(each) for key in expected], expected


def extend(expected: dict[str, list[bytes]], more: Mapping[str, list[bytes]]) -> None:
    """Adds outputs that are expected after the others."""
    for key, ending in more.items():
        expected[key] = [*expected.get(key, []), *ending]


def count(toy: Toy) -> int:
    """The number of visible outputs."""
    return sum(len(lines) for lines in toy.outputs().values())


def await_true(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Waits for a condition; fails with its description."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)


def check_exactly_once(toy: Toy, expected: dict[str, list[bytes]], *, in_order: bool = True) -> None:
    """Asserts that every expected value of a key is there once, numbered 1, 2, 3 ..., and that the tables agree."""
    outputs = toy.outputs()
    for key, values in expected.items():
        lines = [value.split(b":", 1) for value in outputs.get(key.encode(), [])]
        assert [int(n) for n, _ in lines] == list(range(1, len(lines) + 1)), f"gaps in the numbers of {key}"
        seen = [value for _, value in lines]
        assert (seen if in_order else sorted(seen)) == (values if in_order else sorted(values)), f"values of {key}"
    assert set(outputs) == {key.encode() for key in expected}
    assert toy.table("open") == {}
    assert toy.table("counts") == {key.encode(): b'{"n":%d}' % len(values) for key, values in expected.items()}
