"""The time of a lone record through one stage: from just before it is produced until a read_committed reader has its output."""

import shutil
import threading
import time
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.engine import job
from benchmarks.engine.bench_topics import PARTITIONS, Topics
from benchmarks.engine.contenders import CONTENDERS
from benchmarks.engine.engine_rates import TABLES
from benchmarks.engine.machine import Process
from benchmarks.engine.task import Task

WARM_UP = 1000  # records that are not timed: a broker that has just started still compiles its code
GAP_SECONDS = 0.02
READY_SECONDS = 60.0


class Reader(threading.Thread):
    """A thread that notes when the output of each message was readable."""

    def __init__(self, kafka_url: str, topic: str, wanted: int) -> None:
        super().__init__(name="reader", daemon=True)
        self.seen_at: dict[str, float] = {}
        self._wanted = wanted
        self._stopping = threading.Event()
        self._consumer = Consumer(
            {"bootstrap.servers": kafka_url, "group.id": "bench-latency", "isolation.level": "read_committed"}
        )
        self._consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])

    def run(self) -> None:
        while not self._stopping.is_set() and len(self.seen_at) < self._wanted:
            message = self._consumer.poll(0.2)
            if message is not None and message.error() is None:
                now = time.perf_counter()
                _, message_id, _ = job.place(message.value() or b"")
                self.seen_at[message_id] = now
        self._consumer.close()

    def stop(self, seconds: float) -> None:
        """Blocks: waits at most `seconds` for all outputs, then ends the thread."""
        self.join(seconds)
        self._stopping.set()
        self.join()


def lone_records(name: str, count: int, topics: Topics, folder: Path) -> list[float]:
    """Milliseconds of each of `count` lone records through a worker of the product, sorted. Raises RuntimeError when one is missing."""
    group = f"chat4all-bench-{name}-lone"
    place = folder / group
    place.mkdir(parents=True)
    task = Task(topics.kafka_url, f"{group}-in", f"{group}-out", group, PARTITIONS, place)
    topics.create(task.source, task.out)
    topics.create(*(task.changelog(table) for table in TABLES), compact=True)
    contender = CONTENDERS[name]
    process = Process(contender.command(task), contender.environment(task), place / "output.log")
    try:
        _await_ready(process)
        return _timed(task, count)
    finally:
        process.stop()
        topics.delete(topics.named(group))
        shutil.rmtree(place)


def _await_ready(process: Process) -> None:
    end = time.monotonic() + READY_SECONDS
    while "partitions taken over" not in process.output():
        if process.ended or time.monotonic() > end:
            raise RuntimeError(f"the worker is not ready; its log ends: {process.output()[-600:]}")
        time.sleep(0.1)


def _timed(task: Task, count: int) -> list[float]:
    records = list(dict.fromkeys(job.records(2 * (count + WARM_UP))))[: count + WARM_UP]  # no repetitions
    reader = Reader(task.kafka_url, task.out, len(records))
    reader.start()
    producer = Producer({"bootstrap.servers": task.kafka_url, "linger.ms": 0, "partitioner": "murmur2_random"})
    sent_at: dict[str, float] = {}
    next_at = time.perf_counter()
    for number, (key, value) in enumerate(records):
        time.sleep(max(0.0, next_at - time.perf_counter()))
        next_at = max(next_at, time.perf_counter() - GAP_SECONDS) + GAP_SECONDS
        sent_at[f"m-{number:09d}"] = time.perf_counter()
        producer.produce(task.source, value, key)
        producer.poll(0)
    producer.flush(10)
    reader.stop(10.0)
    if missing := len(sent_at) - len(reader.seen_at):
        raise RuntimeError(f"{missing} of {len(sent_at)} lone records did not come out")
    return sorted(1000 * (reader.seen_at[name] - at) for name, at in list(sent_at.items())[WARM_UP:])
