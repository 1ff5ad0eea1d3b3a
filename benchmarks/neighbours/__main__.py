"""`python -m benchmarks.neighbours`: how much one tenant is slowed down by another that sends bad or excessive input.

Enters: an idle machine. Leaves: benchmarks/neighbours.json and a table. On a stack of its own a quiet tenant sends a message every fifth
of a second: first alone, then while a loud tenant sends each kind of disturbance (benchmarks/neighbours/inputs.py) in turn, and at last
while it sends more ordinary messages than the machine can process (this part has no target). Times are from the application's request to
the provider's acceptance, as PostgreSQL has them.
"""

import argparse
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles

import psycopg
from confluent_kafka import Producer
from rich.console import Console

from benchmarks.neighbours import inputs
from cli.dev_stack import compose
from schemas import benchmark, codec
from schemas.benchmark import Figure
from schemas.keys import key_of
from schemas.records import Message, Recipient
from schemas.settings import Settings, use_state
from stack import control
from stack.state import read_state, state_path

TENANT = "quiet"
EACH_SECONDS = 0.2
CONVERSATIONS = 40
WARM_UP_SECONDS = 15.0
ARRIVE_SECONDS = 60.0  # for the last messages, after the load has ended
TARGET = 1.5
console = Console()


class Quiet:
    """The tenant whose times are measured, with a thread of its own. `phase` is the beginning of its message ids."""

    def __init__(self, producer: Producer) -> None:
        self.phase = "warm"
        self.sent = 0
        self._producer = producer
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Blocks until the thread has ended and Kafka has acknowledged its messages, 30 s at most for the latter."""
        self._ended.set()
        self._thread.join()
        self._producer.flush(30)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due += EACH_SECONDS
            number = self.sent % CONVERSATIONS
            message = Message(
                tenant_id=TENANT,
                message_id=f"{self.phase}-{self.sent}",
                conversation_id=f"quiet-{number}",
                recipients=(Recipient(channel="whatsapp", address=f"1415555{number:04}"),),
                text=f"[quiet-{number}/{self.phase}-{self.sent}] quiet",
                requested_at=time.time_ns() // 1_000_000,
            )
            self._producer.produce("messages", codec.encode(message), key_of(message))
            self._producer.poll(0)
            self.sent += 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neighbours", description="One tenant beside another.")
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="length of the undisturbed phase, and least length of the disturbed one",
    )
    parser.add_argument("--trial", action="store_true", help="do not write benchmarks/neighbours.json")
    options = parser.parse_args()
    with _stack() as (folder, settings):
        figures = _measured(folder, settings, options.seconds)
    console.print(benchmark.table(figures))
    if not options.trial:
        console.print(f"written to {benchmark.write('neighbours', 'make bench-neighbours', figures).name}")


@contextmanager
def _stack() -> Iterator[tuple[Path, Settings]]:
    folder = Path(".chat4all") / f"bench-neighbours-{os.getpid()}"
    try:
        control.start(folder, compose(folder))
        yield folder, use_state(state_path(folder))
    finally:
        control.stop(folder)


def _measured(folder: Path, settings: Settings, seconds: float) -> dict[str, Figure]:
    common = {**settings.kafka.settings("bench"), "partitioner": "murmur2_random", "linger.ms": 0}
    quiet = Quiet(Producer(common))
    time.sleep(WARM_UP_SECONDS)
    quiet.phase = "alone"
    time.sleep(seconds)
    quiet.phase = "beside"
    began = time.monotonic()
    run = f"loud{int(time.time())}"
    records = 0
    for kind, disturbance in inputs.kinds(run).items():
        console.print(f"{time.monotonic() - began:5.1f} s  {kind}")
        records += _produce(Producer({**common, "linger.ms": 5, "message.max.bytes": 4_000_000}), disturbance)
        time.sleep(seconds / 10)
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    quiet.phase = "burst"
    records += _produce(Producer({**common, "linger.ms": 5}), inputs.burst(run))
    time.sleep(seconds / 4)
    quiet.stop()
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        alone, beside, burst = (_times(connection, phase) for phase in ("alone", "beside", "burst"))
        lost = _missing(connection, quiet.sent)
    state = read_state(folder)
    ended = sum(service.restarts for service in state.services) if state else -1
    return {
        "quiet_alone_p95": Figure(round(_p95(alone)), "ms, request to sent"),
        "quiet_beside_p95": Figure(round(_p95(beside)), "ms, request to sent"),
        "quiet_beside_to_alone": Figure(round(_p95(beside) / _p95(alone), 2), "ratio of p95", TARGET, "lower"),
        "quiet_in_a_burst_p95": Figure(round(_p95(burst)), "ms, request to sent, of 5,000 deliveries beside it"),
        "quiet_messages": Figure(quiet.sent, "messages"),
        "quiet_messages_lost": Figure(lost, "messages", 0, "lower"),
        "loud_records": Figure(records, "records and keys of all kinds"),
        "processes_ended": Figure(ended, "processes", 0, "lower"),
    }


def _produce(producer: Producer, disturbance: Iterator[inputs.Produced]) -> int:
    number = 0
    for topic, key, value in disturbance:
        number += 1
        while True:
            try:
                producer.produce(topic, value, key)
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    if producer.flush(60):
        raise SystemExit("Kafka did not acknowledge the disturbance within 60 s")
    return number


def _times(connection: psycopg.Connection, phase: str) -> list[float]:
    rows = connection.execute(
        "select extract(epoch from sent_at - requested_at) * 1000 from deliveries where tenant_id = %s and message_id like %s"
        " and sent_at is not null",
        (TENANT, f"{phase}-%"),
    ).fetchall()
    return [float(row[0]) for row in rows]


def _missing(connection: psycopg.Connection, sent: int) -> int:
    """Messages of the quiet tenant that no provider accepted within ARRIVE_SECONDS. Blocks for that long at most."""
    end = time.monotonic() + ARRIVE_SECONDS
    while True:
        row = connection.execute(
            "select count(*) from deliveries where tenant_id = %s and sent_at is not null", (TENANT,)
        ).fetchone()
        missing = sent - (row[0] if row else 0)
        if missing == 0 or time.monotonic() > end:
            return missing
        time.sleep(0.5)


def _p95(values: list[float]) -> float:
    return quantiles(values, n=20)[-1]


if __name__ == "__main__":
    main()
