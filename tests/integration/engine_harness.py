"""Workers of the toy stage as real processes, and what they left in Kafka, read back."""

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # exported there, not in its __all__

from pipelines.app import app_id
from pipelines.engine.worker import changelog_topic
from pipelines.topics import declared
from schemas.settings import Settings

PARTITIONS = 4
TABLES = ("counts", "values", "open")


class Toy:
    """One toy stage in Kafka: its topics, its workers, its outputs."""

    def __init__(self, kafka_url: str, name: str, folder: Path) -> None:
        self.kafka_url = kafka_url
        self.name = name
        self.source = f"{name}-in"
        self.workers: list[subprocess.Popen[bytes]] = []
        self._folder = folder
        self._admin = AdminClient({"bootstrap.servers": kafka_url})
        self._create_topics()

    def _create_topics(self) -> None:
        topics = [NewTopic(f"{self.name}-{end}", PARTITIONS, 1) for end in ("in", "out")]
        topics += [
            NewTopic(changelog_topic(app_id(self.name), table), PARTITIONS, 1, config={"cleanup.policy": "compact"})
            for table in TABLES
        ]
        known = self._admin.list_topics(timeout=10).topics
        if "dead-letters" not in known:
            topics += [t for t in declared(Settings(partitions=PARTITIONS)) if t.topic == "dead-letters"]
        for future in self._admin.create_topics(topics).values():
            future.result(timeout=30)

    def start_worker(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "CHAT4ALL_KAFKA_URL": self.kafka_url,
            "CHAT4ALL_PARTITIONS": str(PARTITIONS),
            "CHAT4ALL_WEB_PORT": "0",
        }
        with (self._folder / f"worker-{len(self.workers)}.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.toy_worker", self.name],
                env=environment,
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
            print(
                f"--- worker {worker.pid}, exit {worker.returncode}\n{self.log(worker)}"
            )  # shown when the test failed

    def produce(self, values: Sequence[tuple[str, bytes]]) -> None:
        """(key, value) records, in order, acknowledged when this returns."""
        producer = Producer(
            {"bootstrap.servers": self.kafka_url, "enable.idempotence": True, "partitioner": "murmur2_random"}
        )
        for key, value in values:
            producer.produce(self.source, value, key)
            producer.poll(0)
        assert producer.flush(30) == 0

    def outputs(self) -> dict[bytes, list[bytes]]:
        """Committed outputs by key, in order."""
        found: dict[bytes, list[bytes]] = defaultdict(list)
        for key, value in self.read(f"{self.name}-out"):
            found[key].append(value or b"")
        return found

    def table(self, name: str) -> dict[bytes, bytes]:
        """A table as its changelog tells it."""
        rows: dict[bytes, bytes] = {}
        for key, value in self.read(changelog_topic(app_id(self.name), name)):
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value
        return rows

    def read(self, topic: str) -> list[tuple[bytes, bytes | None]]:
        """Every committed record of a topic, read_committed, partition by partition."""
        consumer = Consumer({"bootstrap.servers": self.kafka_url, "group.id": "reader", "enable.partition.eof": True})
        partitions = list(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        left, found = set(partitions), []
        while left:
            for message in consumer.consume(5000, 0.2):
                error = message.error()
                if error is None:
                    found.append((message.key() or b"", message.value()))
                else:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    left.discard(message.partition() or 0)
        consumer.close()
        return found

    def committed(self) -> dict[int, int]:
        """Where the group stands, by source partition."""
        consumer = Consumer({"bootstrap.servers": self.kafka_url, "group.id": app_id(self.name)})
        found = consumer.committed([TopicPartition(self.source, number) for number in range(PARTITIONS)], timeout=10)
        consumer.close()
        return {tp.partition: tp.offset for tp in found}


def await_true(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Waits for a condition; fails with what was waited for."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)


def check_exactly_once(toy: Toy, expected: dict[str, list[bytes]], *, in_order: bool = True) -> None:
    """Every expected value of a key once, numbered 1, 2, 3 ..., and the tables saying the same."""
    outputs = toy.outputs()
    for key, values in expected.items():
        lines = [value.split(b":", 1) for value in outputs.get(key.encode(), [])]
        assert [int(n) for n, _ in lines] == list(range(1, len(lines) + 1)), f"gaps in the numbers of {key}"
        seen = [value for _, value in lines]
        assert (seen if in_order else sorted(seen)) == (values if in_order else sorted(values)), f"values of {key}"
    assert set(outputs) == {key.encode() for key in expected}
    assert toy.table("open") == {}
    assert toy.table("counts") == {key.encode(): b'{"n":%d}' % len(values) for key, values in expected.items()}
