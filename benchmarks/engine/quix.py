"""Contender: Quix Streams, as in its documentation: a StreamingDataFrame with state (RocksDB, its only store), at least once.

Runs in a virtual environment of its own (environments.py); its state belongs to a key, so both tables share one
changelog.
"""

import time
from typing import Any

from quixstreams import Application, State, message_context

from benchmarks.engine import job
from benchmarks.engine.task import given


def step(message: bytes, state: State) -> bytes | None:
    """One record: the output's value, None for a repetition."""
    datum = job.decode(message)
    message_id = datum["message_id"]
    if state.exists(message_id):
        return None
    now = int(time.time() * 1000)
    state.set(message_id, now)
    sequence = state.get("sequence", 0) + 1
    state.set("sequence", sequence)
    return job.encode(datum, sequence, message_context().partition, now)


def is_output(value: Any) -> bool:
    return value is not None


def main() -> None:
    task = given()
    app = Application(
        broker_address=task.kafka_url,
        consumer_group=task.group,
        auto_offset_reset="earliest",
        state_dir=task.folder,
        loglevel="WARNING",
    )
    source = app.topic(task.source, value_deserializer="bytes")
    out = app.topic(task.out, value_serializer="bytes")
    app.dataframe(source).apply(step, stateful=True).filter(is_output).to_topic(out)
    app.run()


if __name__ == "__main__":
    main()
