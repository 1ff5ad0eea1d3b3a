"""A worker that has nothing to do: markers of transactions and open transactions are no work, and Kafka's own figures show that."""

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import IsolationLevel, Producer, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]  # exported there, not in its __all__

from schemas.kafka_access import KafkaAccess
from stack.ports import free_port
from tests.support.engine_harness import PARTITIONS, Toy, ask, await_true, check_exactly_once, count

STUCK_SECONDS = 10


@pytest.fixture
def application(toy: Toy) -> Iterator[Producer]:
    """Produces in transactions; the last one is aborted at the end."""
    settings = {
        **KafkaAccess(toy.kafka_url).settings("test"),
        "transactional.id": toy.name,
        "partitioner": "murmur2_random",
    }
    made = Producer(settings)
    made.init_transactions(30)
    yield made
    made.abort_transaction(30)


def stable_ends(toy: Toy) -> dict[tuple[str, int], int]:
    asked = {TopicPartition(toy.source, number): OffsetSpec.latest() for number in range(PARTITIONS)}  # type: ignore[no-untyped-call]  # confluent-kafka types them in part
    found = toy.admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED)
    return {(tp.topic, tp.partition): future.result(30).offset for tp, future in found.items()}


def test_markers_and_open_transactions_are_no_lag_and_end_nobody(toy: Toy, application: Producer) -> None:
    port = free_port()
    worker = toy.start_worker(
        environment={"CHAT4ALL_STUCK_SECONDS": str(STUCK_SECONDS), "CHAT4ALL_PROBE_PORT": str(port)}
    )
    toy.wait_ready(worker)
    for number, end in enumerate(("commit", "abort", "commit", "abort", "open")):
        application.begin_transaction()
        for key in range(8):
            application.produce(toy.source, b"%s%d-%d" % (end.encode(), number, key), f"k{key}".encode())
        application.flush(30)
        if end == "commit":
            application.commit_transaction(30)
        elif end == "abort":
            application.abort_transaction(30)
    await_true(lambda: count(toy) == 16, "what was committed", 30)
    await_true(lambda: toy.offsets() == stable_ends(toy), "the group to pass over the markers", 20)
    began = time.monotonic()
    while time.monotonic() < began + 2.5 * STUCK_SECONDS:
        assert worker.poll() is None, toy.log(worker)[-2000:]
        found = ask(f"http://127.0.0.1:{port}", "/health")
        assert (found["status"], found["lag"]) == ("ready", 0)
        time.sleep(1)
    assert toy.offsets() == stable_ends(toy)
    application.commit_transaction(30)
    await_true(lambda: count(toy) == 24, "what the open transaction held", 30)
    check_exactly_once(
        toy, {f"k{key}": [b"commit0-%d" % key, b"commit2-%d" % key, b"open4-%d" % key] for key in range(8)}
    )
    application.begin_transaction()  # for the fixture to abort
