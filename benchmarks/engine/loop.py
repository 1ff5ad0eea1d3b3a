"""Contender: a loop written by hand with confluent-kafka, without any guarantee.

Two dicts, their changelogs, one output for each message. The client commits offsets every five seconds, whether or not the outputs were
produced.
"""

import signal
import sys
import time

from confluent_kafka import Consumer, Message, Producer

from benchmarks.engine import job
from benchmarks.engine.task import Task, given

PRODUCER = {
    "linger.ms": 5,
    "batch.size": 1_000_000,
    "queue.buffering.max.messages": 2_000_000,
    "queue.buffering.max.kbytes": 1_048_576,
}


class Memory:
    """Both tables of one partition, and the job on them."""

    def __init__(self, task: Task, partition: int) -> None:
        self._task = task
        self._partition = partition
        self._seen: dict[bytes, int] = {}
        self._sequences: dict[bytes, int] = {}

    def produce(self, messages: list[Message], producer: Producer) -> None:
        """Produces outputs and changelog rows of a batch: one row for each sequence, with its last value."""
        now = int(time.time() * 1000)
        seen, sequences, partition, out = self._seen, self._sequences, self._partition, self._task.out
        seen_changelog, produce = self._task.changelog("seen"), producer.produce
        touched: dict[bytes, int] = {}
        for record in messages:
            message = job.decode(record.value() or b"")
            message_id = message["message_id"].encode()
            if message_id in seen:
                continue
            seen[message_id] = now
            key = record.key() or b""
            touched[key] = sequences[key] = sequence = sequences.get(key, 0) + 1
            produce(out, job.encode(message, sequence, partition, now), key, partition)
            produce(seen_changelog, b"%d" % now, message_id, partition)
        for key, sequence in touched.items():
            produce(self._task.changelog("sequences"), b"%d" % sequence, key, partition)


def by_partition(messages: list[Message]) -> dict[int, list[Message]]:
    """The messages of one fetch by partition, in order. Raises RuntimeError for an error of Kafka."""
    found: dict[int, list[Message]] = {}
    for message in messages:
        error = message.error()
        if error is not None:
            raise RuntimeError(str(error))
        found.setdefault(message.partition() or 0, []).append(message)
    return found


def main() -> None:
    task = given()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    consumer = Consumer(
        {"bootstrap.servers": task.kafka_url, "group.id": task.group, "auto.offset.reset": "earliest", "log_level": 3}
    )
    producer = Producer({"bootstrap.servers": task.kafka_url, **PRODUCER})
    consumer.subscribe([task.source])
    memories = {number: Memory(task, number) for number in range(task.partitions)}
    try:
        while True:
            for partition, messages in by_partition(consumer.consume(task.turn_records, 0.1)).items():
                memories[partition].produce(messages, producer)
            producer.poll(0)
    finally:
        producer.flush()
        consumer.close()


if __name__ == "__main__":
    main()
