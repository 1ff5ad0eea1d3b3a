"""The engine on Apache Kafka: what the toy stage has committed after its workers were killed, stopped, frozen and joined by others."""

import signal
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from schemas import codec
from schemas.kafka_access import KafkaAccess
from schemas.records import DeadLetter
from tests.support.engine_harness import (
    PARTITIONS,
    Toy,
    await_true,
    check_exactly_once,
    count,
    extend,
    values,
)


@pytest.mark.parametrize("faust", ["Cython", "Python"])
def test_a_lone_first_record_then_many(toy: Toy, faust: str) -> None:
    """The first record at offset 0 alone, then batches: each has its output once, and the group's offset reaches the end."""
    toy.extra["NO_CYTHON"] = "1" if faust == "Python" else ""
    worker = toy.start_worker()
    toy.wait_ready(worker)
    toy.produce([("k0", b"v0-0")])
    await_true(lambda: count(toy) == 1, "the lone record", 20)
    records, expected = values("w", 40, 50)
    toy.produce(records)
    expected["k0"].insert(0, b"v0-0")
    await_true(lambda: count(toy) == len(records) + 1, "every record", 30)
    check_exactly_once(toy, expected)
    await_true(lambda: sum(toy.committed().values()) == len(records) + 1, "the group to reach the end", 10)


@pytest.mark.usefixtures("without_cython")
def test_kills_and_clean_restarts_lose_and_double_nothing(toy: Toy) -> None:
    """SIGKILL and SIGTERM in the middle of work with calls and timers; duplicates among the input."""
    plain, expected = values("p", 30, 60)
    slow, waited = values("call:", 30, 15)
    timed, later = values("later:", 30, 15)
    records = [r for group in zip(plain[: len(slow)], slow, timed, strict=True) for r in group] + plain[len(slow) :]
    for key in expected:
        expected[key] += waited[key] + later[key]
    worker = toy.start_worker()
    toy.wait_ready(worker)
    for number, how in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGTERM)):
        part = records[number * len(records) // 5 : (number + 1) * len(records) // 5]
        toy.produce(part + part[:20])
        time.sleep(0.05 * number)  # the fault hits at different points of the work; no outcome depends on it
        worker.send_signal(how)
        worker.wait(30)
        worker = toy.start_worker()
    toy.produce(records[4 * len(records) // 5 :])
    await_true(lambda: count(toy) >= len(records), "every record", 60)
    check_exactly_once(toy, expected, in_order=False)


def test_tables_on_disk_continue_where_they_were(toy: Toy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Killed and started again on the same folder: the changelog gives the rows that the store does not have, none is lost or doubled."""
    monkeypatch.setenv("CHAT4ALL_STORE", "rocksdb")
    monkeypatch.setenv("CHAT4ALL_DATA_DIR", str(tmp_path / "data"))
    records, expected = values("d", 40, 60)
    worker = toy.start_worker()
    toy.wait_ready(worker)
    for number in range(3):
        toy.produce(records[number * len(records) // 3 : (number + 1) * len(records) // 3])
        worker.kill()
        worker.wait(30)
        worker = toy.start_worker()
    await_true(lambda: count(toy) >= len(records), "every record", 60)
    check_exactly_once(toy, expected)
    assert any((tmp_path / "data").rglob("CURRENT")), "the rows are in RocksDB"


def test_a_frozen_worker_is_fenced(toy: Toy) -> None:
    """SIGSTOP past the session time-out, then SIGCONT: the zombie writes nothing and ends or rejoins; nothing doubles."""
    first = toy.start_worker()
    toy.wait_ready(first)
    second = toy.start_worker()
    toy.wait_ready(second)
    records, expected = values("z", 40, 100)
    half = len(records) // 2
    toy.produce(records[:half])
    first.send_signal(signal.SIGSTOP)
    toy.produce(records[half:])
    await_true(lambda: count(toy) == len(records), "the other worker to take over", 60)
    first.send_signal(signal.SIGCONT)
    more, further = values("y", 40, 20)
    toy.produce(more)
    extend(expected, further)
    await_true(lambda: count(toy) >= len(records) + len(more), "the rest", 60)
    check_exactly_once(toy, expected)


def test_a_fence_while_the_partition_is_ours_opens_it_again(toy: Toy) -> None:
    """Another process opens the worker's transactional id and ends: the worker keeps its membership, takes another id, restores and
    continues.

    Several batches of each partition are on their way then; all of them come again, also those before the last one that Faust has seen."""
    worker = toy.start_worker("--turn-records", "20")
    toy.wait_ready(worker)
    records, expected = values("f", 40, 20)
    toy.produce(records)
    await_true(lambda: count(toy) == len(records), "every record", 30)
    [writer] = toy.writers()
    Producer({**KafkaAccess(toy.kafka_url).settings("test"), "transactional.id": writer}).init_transactions(30)
    more, further = values("g", 40, 20)
    toy.produce(more)
    extend(expected, further)
    await_true(lambda: count(toy) >= len(records) + len(more), "the rest", 60)
    check_exactly_once(toy, expected)
    assert worker.poll() is None
    assert "transactional id taken by another process" in toy.log(worker)
    assert writer not in toy.writers()


def test_workers_come_and_go(toy: Toy) -> None:
    """Three workers join and leave while records flow: every partition keeps its order."""
    records, expected = values("j", 40, 150)
    workers = [toy.start_worker()]
    toy.wait_ready(workers[0])
    for number in range(3):
        toy.produce(records[number * len(records) // 4 : (number + 1) * len(records) // 4])
        if number < 2:
            workers.append(toy.start_worker())
            toy.wait_ready(workers[-1])
    workers[0].send_signal(signal.SIGTERM)
    toy.produce(records[3 * len(records) // 4 :])
    await_true(lambda: count(toy) >= len(records), "every record", 60)
    assert workers[0].wait(30) == 0
    check_exactly_once(toy, expected)


def test_poison_goes_to_dead_letters_alone(toy: Toy) -> None:
    """The other records are processed; the original bytes are kept, with the position and the reason."""
    worker = toy.start_worker()
    toy.wait_ready(worker)
    records, expected = values("q", 8, 20)
    toy.produce([*records[:80], ("k3", b"poison"), *records[80:]])
    await_true(lambda: count(toy) == len(records), "the good records", 30)
    check_exactly_once(toy, expected)
    letters = [codec.decode(value, DeadLetter) for _, value in toy.read("dead-letters")]
    [letter] = [letter for letter in letters if letter.stage == toy.name]
    assert (letter.cause, letter.key, letter.value, letter.source_topic) == (
        "decision_failed",
        b"k3",
        b"poison",
        toy.source,
    )
    assert "ValueError (support/toy_stage.py:" in letter.detail


def test_aborted_source_records_are_invisible(toy: Toy) -> None:
    """What a transactional producer aborted is never decided on."""
    worker = toy.start_worker()
    toy.wait_ready(worker)
    producer = Producer(
        {**KafkaAccess(toy.kafka_url).settings("test"), "transactional.id": toy.name, "partitioner": "murmur2_random"}
    )
    producer.init_transactions(30)
    for value, keep in ((b"a1", False), (b"b1", True), (b"a2", False), (b"b2", True)):
        producer.begin_transaction()
        producer.produce(toy.source, value, "k0")
        if keep:
            producer.commit_transaction(30)
        else:
            producer.flush(10)
            producer.abort_transaction(30)
    await_true(lambda: count(toy) == 2, "the committed records", 20)
    check_exactly_once(toy, {"k0": [b"b1", b"b2"]})


def test_a_newcomer_takes_a_share(toy: Toy) -> None:
    """Two workers share the partitions; none is held by both."""
    first, second = toy.start_worker(), toy.start_worker()
    toy.wait_ready(first)
    toy.wait_ready(second)
    records, expected = values("s", 40, 10)
    toy.produce(records)
    await_true(lambda: count(toy) == len(records), "every record", 30)
    check_exactly_once(toy, expected)
    await_true(lambda: sum(toy.committed().values()) == len(records), "the group to reach the end", 10)
    assert len(toy.committed()) == PARTITIONS
