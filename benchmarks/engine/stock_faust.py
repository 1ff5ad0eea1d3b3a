"""Contender: Faust as in its documentation: an agent, two tables in memory, one record at a time.

It prints how long it took to restore the table `seen`: that is the measurement of Faust's own recovery.
"""

import logging
import sys
import time
from typing import Any

import faust

from benchmarks.engine import job
from benchmarks.engine.task import Task, given


def build(task: Task) -> Any:
    """The app, with its agent."""
    app = faust.App(
        task.group,
        broker=f"kafka://{task.kafka_url}",
        store="memory://",
        topic_partitions=task.partitions,
        consumer_auto_offset_reset="earliest",
        web_enabled=False,
        datadir=str(task.folder),
    )
    source = app.topic(task.source, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    out = app.topic(task.out, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    seen = app.Table("seen", key_type=bytes, value_type=int)
    sequences = app.Table("sequences", default=int, key_type=bytes, value_type=int)
    assigned_at = 0.0

    @app.on_partitions_assigned.connect
    async def began(*_: Any, **__: Any) -> None:
        nonlocal assigned_at
        assigned_at = time.monotonic()

    @seen.on_recover
    async def recovered(*_: Any) -> None:
        print(f"recovered {len(seen)} rows in {time.monotonic() - assigned_at:.3f} s", flush=True)

    @app.agent(source)
    async def sequence(stream: Any) -> None:
        async for event in stream.events():
            message = job.decode(event.value)
            message_id = message["message_id"].encode()
            if message_id in seen:
                continue
            now = int(time.time() * 1000)
            seen[message_id] = now
            sequences[event.key] += 1
            partition = event.message.partition
            value = job.encode(message, sequences[event.key], partition, now)
            await out.send(key=event.key, value=value, partition=partition)

    return app


def main() -> None:
    task = given()
    sys.argv[1:] = []  # Faust reads the arguments too
    faust.Worker(build(task), loglevel=logging.WARNING, quiet=True, redirect_stdouts=False).execute_from_commandline()


if __name__ == "__main__":
    main()
