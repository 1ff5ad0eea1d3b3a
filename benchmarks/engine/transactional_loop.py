"""Contender: a loop written by hand with one transaction per (partition, batch). The engine is compared with this one first.

It is as fast as a loop of this size can be: one producer for each partition, and commits in threads, so that one partition commits while
another decides. It has none of the engine's other features: restore, rebalances, timers, calls, bad records.
"""

import signal
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.engine.loop import PRODUCER, Memory, by_partition
from benchmarks.engine.task import Task, given


class Partition:
    """One partition: its memory, its producer and the commit that may still be in progress."""

    def __init__(self, task: Task, number: int) -> None:
        self.memory = Memory(task, number)
        self.committing: Future[None] | None = None
        self._number = number
        self._source = task.source
        self.producer = Producer(
            {"bootstrap.servers": task.kafka_url, "transactional.id": f"{task.group}-{number}", **PRODUCER}
        )
        self.producer.init_transactions(30)

    def commit(self, end: int, group: Any) -> None:
        """Commits the open transaction with the source offset `end`. Blocks, so it runs in a thread."""
        position = TopicPartition(self._source, self._number, end)
        self.producer.send_offsets_to_transaction([position], group, 30)
        self.producer.commit_transaction(30)


def main() -> None:
    task = given()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    consumer = Consumer(
        {
            "bootstrap.servers": task.kafka_url,
            "group.id": task.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "log_level": 3,
        }
    )
    partitions = [Partition(task, number) for number in range(task.partitions)]
    pool = ThreadPoolExecutor(task.partitions)
    consumer.subscribe([task.source])
    while True:
        for partition in partitions:
            if partition.committing is not None and partition.committing.done():
                partition.committing.result()  # a failed commit ends the loop
        for number, messages in by_partition(consumer.consume(task.partitions * task.turn_records, 0.1)).items():
            partition = partitions[number]
            if partition.committing is not None:
                partition.committing.result()
            partition.producer.begin_transaction()
            partition.memory.produce(messages, partition.producer)
            end = (messages[-1].offset() or 0) + 1
            partition.committing = pool.submit(partition.commit, end, consumer.consumer_group_metadata())


if __name__ == "__main__":
    main()
