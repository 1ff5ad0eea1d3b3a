"""A worker that ends on a record repeatedly, without a reason: only that record is found and set aside; and a worker whose decision never
ends. All other records, also those in other partitions, are processed once."""

import signal
import time
from pathlib import Path

from pipelines.engine.engine_state import EXIT_CODE
from schemas import codec
from schemas.partitions import home_partition
from schemas.records import DeadLetter
from tests.support import toy_stage
from tests.support.engine_harness import PARTITIONS, Toy, await_true, check_exactly_once, count, extend, values

STARTS = 4  # two that end, one that takes records one by one and ends too, and the one that sets the record aside


def letters(toy: Toy) -> list[DeadLetter]:
    found = [codec.decode(value, DeadLetter) for _, value in toy.read("dead-letters")]
    return [letter for letter in found if letter.stage == toy.name]


def test_the_record_a_worker_ends_on_is_set_aside_alone(toy: Toy) -> None:
    before, expected = values("a", 12, 3)
    after, further = values("z", 12, 3)
    extend(expected, further)
    toy.produce([*before, ("k1", b"exit"), *after, ("k1", b"exit"), ("k1", b"last")])
    expected["k1"] = [*expected["k1"], b"last"]
    ends = [toy.start_worker().wait(60) for _ in range(STARTS)]
    # each further record of this kind costs one more end, not three
    assert ends == [toy_stage.EXIT_CODE] * STARTS
    worker = toy.start_worker()
    await_true(lambda: count(toy) == sum(map(len, expected.values())), "every other record", 60)
    check_exactly_once(toy, expected)
    found = letters(toy)
    assert [(letter.cause, letter.key, letter.value) for letter in found] == [("crashed_stage", b"k1", b"exit")] * 2
    assert {letter.source_partition for letter in found} == {home_partition("k1", PARTITIONS)}
    assert "no end reason" in found[0].detail
    assert worker.poll() is None
    toy.produce([("k1", b"later")])
    await_true(lambda: count(toy) == sum(map(len, expected.values())) + 1, "what comes later", 30)


def test_clean_stops_are_not_counted(toy: Toy) -> None:
    """However often a worker is stopped and started with nothing to do, it never takes records one by one, also when it is stopped while it
    counts its start in Kafka."""
    for stopped in range(2 * STARTS):
        worker = toy.start_worker()
        toy.wait_ready(worker)
        time.sleep(stopped * 0.01)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    worker = toy.start_worker()
    toy.produce([("k1", b"one")])
    await_true(lambda: count(toy) == 1, "the record", 60)
    assert not any("one by one" in toy.log(each) for each in toy.workers)


def test_a_decision_that_never_ends_is_an_end_too(toy: Toy, tmp_path: Path) -> None:
    toy.produce([("k1", b"one"), ("k1", b"endless"), ("k1", b"two")])
    environment = {"CHAT4ALL_STUCK_SECONDS": "10", "CHAT4ALL_DATA_DIR": str(tmp_path / "data")}
    for _ in range(STARTS - 1):
        worker = toy.start_worker(environment=environment)
        assert worker.wait(90) == EXIT_CODE
        assert "a decision that does not end" in toy.log(worker)
    toy.start_worker(environment=environment)
    await_true(lambda: count(toy) == 2, "the others", 60)
    check_exactly_once(toy, {"k1": [b"one", b"two"]})
    (letter,) = letters(toy)
    assert (letter.cause, letter.value) == ("crashed_stage", b"endless")
    assert "a decision that does not end" in letter.detail
