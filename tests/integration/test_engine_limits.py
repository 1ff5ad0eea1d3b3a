"""The toy stage in unusual conditions: small batches, restarts with a backlog, gaps in a topic, full buffers, restores made void."""

import signal
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import TopicPartition
from faust.types.tuples import TP

from pipelines.engine.batch_queue import Batch
from pipelines.engine.faust.transport import IN_FLIGHT, BatchConsumer, BatchMessage
from pipelines.engine.turns import Partition
from pipelines.engine.worker import Engine
from schemas.kafka_access import KafkaAccess
from stack.ports import free_port
from tests.support import sabotage
from tests.support.engine_harness import (
    PARTITIONS,
    Toy,
    ask,
    await_true,
    check_exactly_once,
    count,
    extend,
    values,
)
from tests.support.toy_stage import Toy as ToyStage


@pytest.mark.usefixtures("without_cython")
def test_restarts_with_a_backlog_and_a_slow_stage(toy: Toy) -> None:
    """Five clean restarts, each during work; the first ones find only one, two and three records."""
    expected: dict[str, list[bytes]] = {}
    for size in (1, 2, 3):
        records, further = values(f"b{size}-", 1, size)
        toy.produce(records)
        extend(expected, further)
        worker = toy.start_worker("--turn-records", "20")
        await_true(lambda: count(toy) == len(expected["k0"]), f"the batch of {size}", 60)
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
    backlog, further = values("slow:", 30, 80)
    toy.produce(backlog)
    extend(expected, further)
    for part in (1, 2):
        worker = toy.start_worker("--turn-records", "20")
        toy.wait_ready(worker)
        await_true(lambda part=part: count(toy) > len(backlog) * part // 4, "some progress", 60)  # type: ignore[misc]  # mypy cannot type a default in a lambda
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    toy.start_worker("--turn-records", "20")
    await_true(lambda: count(toy) >= sum(map(len, expected.values())), "every record", 90)
    check_exactly_once(toy, expected)


def test_records_that_retention_deleted_are_skipped(toy: Toy) -> None:
    """The group's offset is far before the first record: the worker reports it, continues there, and needs no memory for the gap."""
    worker = toy.start_worker()
    toy.wait_ready(worker)
    before, expected = values("a", 40, 5)
    toy.produce(before)
    await_true(lambda: sum(toy.committed().values()) == len(before), "the group to reach the end", 30)
    worker.send_signal(signal.SIGTERM)
    worker.wait(60)
    gone = [(f"k{n % 40}", b"gone%d" % n) for n in range(100_000)]
    toy.produce(gone)
    futures = toy.admin.delete_records([TopicPartition(toy.source, n, -1) for n in range(PARTITIONS)])
    assert sum(future.result(timeout=30).low_watermark for future in futures.values()) == len(before) + len(gone)
    after, further = values("z", 40, 5)
    toy.produce(after)
    extend(expected, further)
    worker = toy.start_worker()
    await_true(lambda: count(toy) >= len(before) + len(after), "the records after the gap", 60)
    check_exactly_once(toy, expected)
    assert _resident(worker.pid) < 400 << 20
    await_true(
        lambda: sum(toy.committed().values()) == len(before) + len(gone) + len(after), "the group to pass the gap", 30
    )
    assert toy.log(worker).count("records deleted before they were read") == PARTITIONS


def _resident(pid: int) -> int:
    """Bytes of memory a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) << 10


def test_every_partition_at_its_bound_of_batches_in_flight(toy: Toy) -> None:
    """Commits far slower than the source: every partition is full, each gets its turns, and the order is kept. Slow decisions would not do:
    they would also delay the loop that hands out the batches, so that a partition might always end a turn before its next batch comes."""
    port = free_port()
    worker = toy.start_worker(
        "--turn-records", "5", "--sabotage", "slow-commit", environment={"CHAT4ALL_WEB_PORT": str(port)}
    )
    toy.wait_ready(worker)
    records, expected = values("v", 40, 50)
    toy.produce(records)
    await_true(lambda: count(toy) >= len(records), "every record", 120)
    most = ask(f"http://127.0.0.1:{port}", "/inside/")["most_in_flight"]
    assert most == {f"{toy.source}-{number}": IN_FLIGHT for number in range(PARTITIONS)}
    check_exactly_once(toy, expected)


def test_a_take_over_that_a_newcomer_makes_void_opens_nothing_more(toy: Toy) -> None:
    """A second worker joins while the first one still opens producers: it takes its share and keeps it."""
    first = toy.start_worker("--sabotage", "slow-fence")
    await_true(lambda: sabotage.OPENING in toy.log(first), "the first worker to open a producer", 60)
    assert "partitions taken over" not in toy.log(first)
    second = toy.start_worker()
    toy.wait_ready(second)
    toy.wait_ready(first)
    shares = [_share(toy.log(worker)) for worker in (first, second)]
    assert sorted(shares[0] + shares[1]) == list(range(PARTITIONS))
    assert len(shares[0]) == len(shares[1]), "the first one's takeover was made void"
    records, expected = values("r", 40, 20)
    toy.produce(records)
    await_true(lambda: count(toy) >= len(records), "every record", 60)
    check_exactly_once(toy, expected)
    assert [worker.poll() for worker in (first, second)] == [None, None]
    assert not any("fenced" in toy.log(worker) for worker in (first, second)), "it opened what it no longer owned"


def _share(log: str) -> list[int]:
    """The partitions of the last takeover."""
    line = [line for line in log.splitlines() if "partitions taken over" in line][-1]
    return [int(number) for number in line.partition("partitions=[")[2].partition("]")[0].split(",")]


async def test_a_batch_of_an_older_start_is_dropped_unread(kafka_url: str, unique: str) -> None:
    """It was fetched before the partitions started again: its records come again, or belong to another worker."""
    engine = Engine(
        stage=ToyStage(unique), app_id=unique, kafka=KafkaAccess(kafka_url), session_seconds=6.0, stuck_seconds=60.0
    )
    taken: list[Batch] = []
    news: list[int] = []
    engine.consumer = cast("BatchConsumer", SimpleNamespace(in_flight=Counter(), news=lambda: news.append(1)))
    engine.partitions[0] = cast("Partition[Any]", SimpleNamespace(submit=taken.append, tables={}))
    engine._running = {0}
    engine.epoch = 2
    source = (f"{unique}-in", 0)
    engine.consumer.in_flight[source] = 1  # of the newer start
    engine.submit(_batch(source, epoch=1))
    assert (taken, engine.consumer.in_flight[source], news) == ([], 1, [1])
    message = _batch(source, epoch=2)
    engine.submit(message)
    assert [batch.records for batch in taken] == [message.value]
    taken[0].release()
    assert engine.consumer.in_flight[source] == 0
    engine._running = set()
    engine.submit(_batch(source, epoch=2))
    assert len(taken) == 1, "nor is one of a partition that is being given up"
    engine.partitions.clear()
    await engine.close()


def _batch(source: tuple[str, int], *, epoch: int) -> BatchMessage:
    message = BatchMessage(*source, 5, time.time(), 0, (), None, ["a record"], None, 0, 0, TP(*source), generation_id=7)
    message.epoch = epoch
    return message


def test_objects_that_refer_to_themselves_do_not_stay(toy: Toy) -> None:
    """A client may leave such objects; also a worker that has little to do frees them."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    worker = toy.start_worker(environment={"CHAT4ALL_WEB_PORT": str(port)})
    toy.wait_ready(worker)
    records, _ = values("knot:", 10, 50)
    toy.produce(records)
    await_true(lambda: count(toy) == len(records), "every record", 30)
    await_true(lambda: ask(url, "/inside/")["knots"] == 0, "the collector", 60)
