"""One run of the whole product: a stack, four loads one after the other, and the cost of each. Another commit runs this file too, with
its own modules.

Enters: a folder for the stack and a file for the result. Leaves: in the file, for each load, deliveries, seconds, percentiles from accept
to sent, transactions, and CPU seconds of each process. A load whose verdict is not good has no figure. Nothing but loads runs meanwhile.
"""

import json
import os
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from cli import stack
from cli.load import CHANNELS
from cli.load_run import LoadOptions, run_load
from schemas.settings import use_state
from stack import control
from stack.state import read_state, state_path


def _knobs(count: int, rate: float, seed: int) -> LoadOptions:
    return LoadOptions(
        count=count,
        rate=rate,
        channels=CHANNELS,
        conversations=3000,
        group_share=0.0,
        groups=1,
        group_size=20,
        duplicates=0.0,
        seed=seed,
    )


LOADS = {  # in this order: the first one is the load of `chat4all demo`, on a stack that has just started
    "demo": LoadOptions(
        count=1000,
        rate=100.0,
        channels=CHANNELS,
        conversations=200,
        group_share=0.05,
        groups=1,
        group_size=20,
        duplicates=0.05,
        seed=1,
    ),
    "at_50": _knobs(1500, 50.0, 1),
    "at_100": _knobs(3000, 100.0, 2),
    "saturation": _knobs(12_000, 0.0, 3),
}
COMPLETE_COMMIT = 4  # a status of transactions: kafka.coordinator.transaction.TransactionState
# In the value of a record of __transaction_state, after the version (2 bytes), producer id (8), epoch (2) and time-out (4).
STATUS_AT = 16


def main() -> None:
    folder, found_at = Path(sys.argv[1]), Path(sys.argv[2])
    found: dict[str, Any] = {}
    try:
        stack.start(folder)
        for name, knobs in LOADS.items():
            found[name] = _measured(folder, knobs)
    finally:
        control.stop(folder)
    found_at.write_text(json.dumps(found), encoding="utf-8")


def _measured(folder: Path, knobs: LoadOptions) -> dict[str, Any]:
    settings = use_state(state_path(folder))
    before, committed = _cpu(folder), _transactions(_kafka(settings))
    outcome = run_load(folder, settings, knobs)
    after = _cpu(folder)
    if not outcome.ok:
        raise SystemExit("the verdict of a load was not good: no figure is written")
    times = outcome.verdict.latencies["accept to sent"]
    return {
        "deliveries": outcome.load.deliveries,
        "seconds": outcome.seconds,
        "accept_to_sent": {"p50": times.p50, "p95": times.p95, "p99": times.p99},
        "transactions": _transactions(_kafka(settings)) - committed,
        "cpu": {name: used - before.get(name, 0.0) for name, used in after.items()},
    }


def _cpu(folder: Path) -> dict[str, float]:
    """CPU seconds so far of every process of the stack, ended children included, and of this process, which makes the load."""
    state = read_state(folder)
    found = {"load": _seconds(psutil.Process(os.getpid()), children=False)}
    for service in state.services if state else ():
        if service.pid:
            process = psutil.Process(service.pid)
            found[service.name] = sum(map(_seconds, (process, *process.children(recursive=True))))
    return found


def _seconds(process: psutil.Process, *, children: bool = True) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        own = float(times.user + times.system)
        return own + (float(times.children_user + times.children_system) if children else 0.0)
    return 0.0


def _kafka(settings: Any) -> dict[str, Any]:
    """Client settings of Kafka; an older commit has a Kafka without passwords, and no settings for them."""
    kafka = getattr(settings, "kafka", None)
    return {"bootstrap.servers": settings.kafka_url} if kafka is None else dict(kafka.settings("bench"))


def _transactions(kafka: Mapping[str, Any]) -> int:
    """The number of committed transactions of all producers, from the broker's own topic of transaction states."""
    consumer = Consumer({**kafka, "group.id": "bench-life", "enable.auto.commit": False})
    topic = "__transaction_state"
    try:
        numbers = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        ends = {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=30)[1] for number in numbers
        }
        left = {number: end for number, end in ends.items() if end}
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in left])
        return _committed(consumer, left)
    finally:
        consumer.close()


def _committed(consumer: Consumer, left: Mapping[int, int]) -> int:
    waiting, committed = dict(left), 0
    while waiting:
        for record in consumer.consume(10_000, timeout=1.0):
            number, offset, value = record.partition(), record.offset(), record.value()
            if value and struct.unpack_from(">b", value, STATUS_AT)[0] == COMPLETE_COMMIT:
                committed += 1
            if number in waiting and offset is not None and offset >= waiting[number] - 1:
                waiting.pop(number)
    return committed


if __name__ == "__main__":
    main()
