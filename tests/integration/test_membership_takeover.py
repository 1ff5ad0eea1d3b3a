"""Which worker takes over what, and when: crashed workers of one machine are replaced at once, the others keep their tables, a void restore
ends, and a worker that is only busy remains a member."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.engine.restore import CHUNK, RestoreProgress, restore
from pipelines.engine.shared_changelog import OneTable
from schemas.kafka_access import KafkaAccess
from tables.stores.factory import open_partition
from tests.support.engine_harness import PARTITIONS, Toy, await_true
from tests.support.toy_stage import Toy as ToyStage

LONG = 60.0  # a session time-out; no test here waits for it


@pytest.fixture
def toy(kafka_url: str, unique: str, tmp_path: Path) -> Iterator[Toy]:
    made = Toy(kafka_url, unique, tmp_path)
    made.command = [sys.executable, "-m", "tests.support.hampered_worker", unique]
    yield made
    made.stop()


def taken(log: str) -> list[tuple[list[int], list[int], int]]:
    """For each takeover: partitions owned, partitions restored, rows restored."""
    found = []
    for line in log.splitlines():
        if "partitions taken over" in line:
            owned, restored = (
                [int(number) for number in line.partition(f"{name}=[")[2].partition("]")[0].split(",") if number]
                for name in ("partitions", "restored")
            )
            found.append((owned, restored, int(line.partition("rows=")[2].split()[0])))
    return found


def fill(toy: Toy) -> None:
    toy.produce([(f"k{number}", b"v%d" % number) for number in range(200)])
    await_true(lambda: len(toy.outputs()) == 200, "every key", 30)


def three_workers(toy: Toy, folder: Path) -> None:
    """Three workers of one machine: they share a data folder. Their session time-out is far too long to wait for."""
    shared = {"CHAT4ALL_DATA_DIR": str(folder), "CHAT4ALL_SESSION_TIMEOUT_SECONDS": str(LONG)}
    for _ in range(3):
        toy.start_worker(environment=shared)
    for worker in toy.workers:
        toy.wait_ready(worker)
    shares = [1, 1, 2]
    await_true(lambda: sorted(len(taken(toy.log(w))[-1][0]) for w in toy.workers) == shares, "three shares", 60)


def test_crashed_workers_of_one_machine_are_replaced_at_once(toy: Toy, tmp_path: Path) -> None:
    """Long before the session time-out; the other workers keep their tables: only the partitions of the crashed one are restored."""
    three_workers(toy, tmp_path / "shared")
    fill(toy)
    victim, *others = toy.workers
    before = {worker.pid: taken(toy.log(worker))[-1][0] for worker in toy.workers}
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    await_true(lambda: sum(len(taken(toy.log(w))[-1][0]) for w in others) == PARTITIONS, "the takeover", LONG / 2)
    last = [taken(toy.log(worker))[-1] for worker in others]
    assert sorted(number for _, restored, _ in last for number in restored) == sorted(before[victim.pid])
    for worker, (owned, restored, rows) in zip(others, last, strict=True):
        assert set(owned) - set(restored) == set(before[worker.pid])
        assert (rows > 0) == bool(restored)
    toy.produce([(f"k{number}", b"w%d" % number) for number in range(200)])
    await_true(lambda: all(len(lines) == 2 for lines in toy.outputs().values()), "every key again", 30)


def test_a_worker_that_is_started_again_ends_its_former_membership(toy: Toy, tmp_path: Path) -> None:
    """A lone worker, killed and started again with its folder: it does not wait for its former session."""
    again = {"CHAT4ALL_DATA_DIR": str(tmp_path / "one"), "CHAT4ALL_SESSION_TIMEOUT_SECONDS": str(LONG)}
    first = toy.start_worker(environment=again)
    toy.wait_ready(first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = toy.start_worker(environment=again)
    await_true(lambda: bool(taken(toy.log(second))), "the second one to take over", LONG / 2)
    assert "crashed worker removed from the group" in toy.log(second)


def test_a_frozen_worker_is_not_taken_for_crashed(toy: Toy, tmp_path: Path) -> None:
    """A frozen worker keeps its lock: the others look at its file and leave it in the group."""
    three_workers(toy, tmp_path / "shared")
    frozen, killed, witness = toy.workers
    frozen.send_signal(signal.SIGSTOP)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    # the witness has looked, for it removed the other one; the group now waits for the frozen one
    await_true(lambda: "removed from the group" in toy.log(witness), "the witness to look", LONG / 2)
    frozen.send_signal(signal.SIGCONT)
    await_true(lambda: sum(len(taken(toy.log(w))[-1][0]) for w in (frozen, witness)) == PARTITIONS, "all four", 30)
    assert toy.log(witness).count("removed from the group") + toy.log(frozen).count("removed from the group") == 1


def test_a_busy_loop_costs_no_membership(toy: Toy) -> None:
    """A decision that blocks the event loop for two sessions, and a restore longer than one: heartbeats continue meanwhile."""
    worker = toy.start_worker("--stall-seconds", "7")
    toy.wait_ready(worker)
    fill(toy)
    toy.produce([("k1", b"stall")])
    await_true(lambda: len(toy.outputs()[b"k1"]) == 2, "the stall to end", 60)
    assert len(taken(toy.log(worker))) == 1
    assert "Heartbeat" not in toy.log(worker)
    worker.send_signal(signal.SIGTERM)
    worker.wait()
    slow = toy.start_worker("--row-seconds", "0.03")  # of 201 rows: twice the session
    toy.wait_ready(slow)
    assert taken(toy.log(slow)) == [([0, 1, 2, 3], [0, 1, 2, 3], 402)]
    assert "Heartbeat" not in toy.log(slow)


def test_a_restore_made_void_ends_at_once(toy: Toy, tmp_path: Path) -> None:
    """Within one chunk of rows, and no table counts as complete."""
    toy.produce([(f"v{n}", b'{"n":1}') for n in range(5 * CHUNK)], source=toy.changelog("values"))
    layout = ToyStage.tables[1]
    tables = {
        (toy.changelog("values"), number): open_partition("memory", layout, tmp_path, "")
        for number in range(PARTITIONS)
    }
    changelogs = {source: OneTable(table) for source, table in tables.items()}
    progress = RestoreProgress()
    rows = restore(KafkaAccess(toy.kafka_url), changelogs, lambda: progress.rows < 100, progress)
    assert 100 <= rows < 100 + CHUNK
    assert sum(map(len, tables.values())) == rows
    assert restore(KafkaAccess(toy.kafka_url), changelogs, lambda: True, RestoreProgress()) == 5 * CHUNK
    assert sum(map(len, tables.values())) == 5 * CHUNK
