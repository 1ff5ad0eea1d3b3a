"""Workers of the toy stage that end at a chosen point of a turn, or whose Kafka refuses or hangs: no incomplete turn is ever visible."""

import asyncio
import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported there, not in its __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from pipelines.engine.engine_state import EXIT_CODE
from pipelines.engine.mirror import Mirror
from pipelines.engine.stage import Mirrored
from schemas.kafka_access import KafkaAccess
from stack import kafka_server
from stack.service import Child
from tests.support import sabotage
from tests.support.engine_harness import Toy, await_true, check_exactly_once, count, extend, values


@pytest.mark.usefixtures("without_cython")
def test_a_worker_may_die_at_every_point_of_a_turn(toy: Toy) -> None:
    """One worker after the other crashes at a critical point; after the last one every output is there once."""
    records, expected = values("s", 40, 20)
    toy.produce(records)
    first = toy.start_worker()
    await_true(lambda: count(toy) == len(records), "tables to restore", 60)
    first.send_signal(signal.SIGTERM)
    first.wait(60)
    for number, point in enumerate(sabotage.CRASHES):
        seen = count(toy)
        more, further = values(f"p{number}-", 40, 5)
        toy.produce(more)
        extend(expected, further)
        assert toy.start_worker("--sabotage", point).wait(90) == sabotage.EXIT_CODE
        if point == "after-commit":
            assert count(toy) > seen, "what was committed before the end is visible"
        else:
            assert count(toy) == seen, f"a part of an unfinished turn is visible: {point}"
    toy.start_worker()
    await_true(lambda: count(toy) >= sum(map(len, expected.values())), "every record", 60)
    check_exactly_once(toy, expected)


def test_what_kafka_refuses_keeps_the_whole_turn_unseen_and_ends_the_worker(toy: Toy) -> None:
    """An output, a row or an offset that Kafka refuses: the rest of the turn is not visible either, and the worker names what was
    refused."""
    small, large = b"w", b"w" * 1000
    toy.produce([("k0", small), ("k0", large)])
    refused = {
        f"{toy.name}-out": ("hasty-commit", "refused a record: Broker: Message size too large"),
        toy.changelog("values"): ("hasty-commit", "refused a record: Broker: Message size too large"),
        "no-such-topic": ("foreign-offsets", "Unknown topic or partition"),
    }
    for topic, (sabotaged, reason) in refused.items():
        _limit(toy, topic, 200)
        worker = toy.start_worker("--sabotage", sabotaged)
        assert worker.wait(90) == EXIT_CODE
        _limit(toy, topic, 1_000_000)
        [line] = [line for line in toy.log(worker).splitlines() if "worker ends" in line]
        assert topic in line
        assert reason in line
        assert (count(toy), toy.table("counts"), sum(toy.committed().values())) == (0, {}, 0)
    toy.start_worker()
    await_true(lambda: count(toy) == 2, "both records", 60)
    check_exactly_once(toy, {"k0": [small, large]})


def _limit(toy: Toy, topic: str, size: int) -> None:
    """Sets the largest batch that the topic takes, when the topic exists."""
    if topic not in toy.admin.list_topics(timeout=10).topics:
        return
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    for future in toy.admin.incremental_alter_configs([resource]).values():
        future.result(timeout=30)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Child]:
    """A Kafka of its own, for a test that stops it."""
    child = Child(kafka_server.service(tmp_path / "kafka", heap="512m"))
    child.start()
    child.wait()
    # a second start must not format it again
    child.service = dataclasses.replace(child.service, steps=child.service.steps[-1:])
    yield child
    child.stop()


def test_a_kafka_that_hangs_ends_nobody_and_lets_nothing_out(broker: Child, unique: str, tmp_path: Path) -> None:
    """The broker freezes during work for longer than the time-out of a commit: its outcome is asked for afterwards."""
    toy = Toy(broker.service.url, unique, tmp_path)
    try:
        worker = toy.start_worker("--sabotage", "hasty-commit", "--turn-records", "20")
        toy.wait_ready(worker)
        records, expected = values("slow:", 40, 120)
        toy.produce(records)
        await_true(lambda: count(toy) > 0, "work to begin", 30)
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            await_true(lambda: "outcome of a commit not known" in toy.log(worker), "the time-out to pass", 60)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        await_true(lambda: count(toy) >= len(records), "every record", 90)
        check_exactly_once(toy, expected)
        assert worker.poll() is None
    finally:
        toy.stop()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_a_broker_that_is_started_again_ends_no_worker(
    how: signal.Signals, broker: Child, unique: str, tmp_path: Path
) -> None:
    """Under load and then while the worker is idle: nothing is lost or doubled, and work continues a moment after Kafka answers."""
    toy = Toy(broker.service.url, unique, tmp_path)
    try:
        workers = [toy.start_worker("--turn-records", "20") for _ in range(2)]
        for worker in workers:
            toy.wait_ready(worker)
        records, expected = values("slow:", 40, 60)
        toy.produce(records)
        await_true(lambda: count(toy) > 0, "work to begin", 30)
        _start_again(broker, how, away=2.0)
        await_true(lambda: count(toy) >= len(records), "every record", 60)
        for number in range(2):
            _start_again(broker, how, away=7.0)
            answered = time.monotonic()
            more, further = values(f"after{number}-", 40, 1)
            toy.produce(more)
            extend(expected, further)
            await_true(lambda: count(toy) >= sum(map(len, expected.values())), "what came after it", 30)  # awaited here
            print(f"what came after it: {time.monotonic() - answered:.1f} s after Kafka answers")
        check_exactly_once(toy, expected)
        assert [worker.poll() for worker in workers] == [None, None]
    finally:
        toy.stop()


def test_a_broker_that_stays_away_costs_a_worker_next_to_nothing(broker: Child, unique: str, tmp_path: Path) -> None:
    """Turns wait for it: they do not open one client after the other, and the log does not fill."""
    toy = Toy(broker.service.url, unique, tmp_path)
    try:
        worker = toy.start_worker("--turn-records", "20")
        toy.wait_ready(worker)
        records, expected = values("slow:", 40, 60)
        toy.produce(records)
        await_true(lambda: count(toy) > 0, "work to begin", 30)
        process = psutil.Process(worker.pid)
        threads, lines = process.num_threads(), toy.log(worker).count("\n")
        os.kill(broker.pid, signal.SIGKILL)
        await_true(lambda: broker.returncode is not None, "the broker to end", 30)
        time.sleep(3.0)  # calls under way notice it
        before, most = sum(process.cpu_times()[:2]), 0
        for _ in range(30):
            time.sleep(0.5)
            most = max(most, process.num_threads())
        print(
            f"{threads} threads before, {most} while it was away; {sum(process.cpu_times()[:2]) - before:.1f} s of CPU in 15 s"
        )
        assert most < threads + 8 * toy.partitions, "more than two clients in place of each producer"
        assert toy.log(worker).count("\n") < lines + 200
        broker.start()
        broker.wait()
        await_true(lambda: count(toy) >= len(records), "every record", 60)
        await_true(lambda: process.num_threads() <= threads + 4, "the former clients to be gone", 30)
        check_exactly_once(toy, expected)
        assert worker.poll() is None
    finally:
        toy.stop()


def _start_again(broker: Child, how: signal.Signals, *, away: float) -> None:
    os.kill(broker.pid, how)
    await_true(lambda: broker.returncode is not None, "the broker to end", 30)
    time.sleep(away)
    broker.start()
    broker.wait()


async def test_a_mirror_goes_on_after_a_broker_was_started_again(broker: Child, unique: str) -> None:
    """The view of people follows its topic, before and after."""
    admin = AdminClient(KafkaAccess(broker.service.url).settings("test"))
    admin.create_topics([NewTopic(unique, 2, 1, config={"cleanup.policy": "compact"})])[unique].result(30)
    failures: list[str] = []
    mirrored = Mirrored(unique, lambda _, value: value)
    mirror = Mirror(kafka=KafkaAccess(broker.service.url), mirrored=mirrored, fail=failures.append)
    await mirror.start()
    try:
        for number, how in enumerate((signal.SIGKILL, signal.SIGTERM)):
            await asyncio.to_thread(_start_again, broker, how, away=2.0)
            producer = Producer(KafkaAccess(broker.service.url).settings("test"))
            producer.produce(unique, b"value", b"key-%d" % number)
            assert await asyncio.to_thread(producer.flush, 60) == 0
            await asyncio.to_thread(await_true, lambda: len(mirror.view) == number + 1, "the mirror to follow", 30)  # noqa: B023  # awaited here
        assert not failures
    finally:
        await mirror.stop()
