"""Turns of a stage that asks where a mirrored topic ends: when Kafka is asked, and what waits for the answer."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest
from confluent_kafka import KafkaError, KafkaException

from pipelines.engine.mirror import Mirror
from pipelines.engine.mirrors import Mirrors
from pipelines.engine.stage import Call, Decision, EndOf, Inputs, Mirrored
from schemas.kafka_access import KafkaAccess
from tests.support.turns_harness import SOON, Bench, Toy, ToyState, benched, until


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async for made in benched():
        yield made


class Curious(Toy):
    """Asks for each record where the topic of people ends, and notes what it sees of that topic in every decision."""

    mirrored = (Mirrored("people", lambda _, value: value),)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[list[EndOf], bytes | None]] = []

    def decide(self, inputs: Inputs, state: ToyState, now: int) -> Decision:
        decision = super().decide(inputs._replace(results=[]), state, now)
        decision.calls += [Call("question", None, end_of="people") for _ in inputs.records]
        self.seen.append(([result.value for result in inputs.results], inputs.views["people"].get(b"ana")))
        return decision


def mirrors_of(bench: Bench, ends: Callable[[], int]) -> tuple[Mirrors, Mirror]:
    """Mirrors whose topic ends at `ends`, and the mirror of people."""
    bench.stage = Curious()
    made = Mirrors(
        bench.stage.mirrored,
        kafka=KafkaAccess("127.0.0.1:1"),
        ends=lambda _: {("people", 0): ends()},
        fail=bench.failures.append,
    )
    return made, made._mirrors["people"]


async def test_a_question_is_asked_after_the_commit_and_answered_when_the_mirror_has_passed(bench: Bench) -> None:
    asked: list[int] = []

    def ends() -> int:
        assert threading.current_thread() is not threading.main_thread(), "the event loop continues meanwhile"
        asked.append(len(bench.journal.committed))
        return 7

    bench.mirrors, mirror = mirrors_of(bench, ends)
    bench.start()
    await bench.turned("x")
    await until(lambda: bool(asked))
    assert asked == [1]
    mirror._move([(b"bob", b"1")], {0: 6})
    await asyncio.sleep(0.02)
    assert isinstance(bench.stage, Curious)
    assert bench.stage.seen == [([], None)], "one record short of the end"
    mirror._move([(b"ana", b"1")], {0: 7})
    await until(lambda: isinstance(bench.stage, Curious) and len(bench.stage.seen) == 2)
    assert bench.stage.seen[1] == ([EndOf("people", {}, {0: 7})], b"1")
    assert bench.stage.performed == [], "the engine answers it"


async def test_a_question_is_asked_again_while_kafka_does_not_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.engine.mirrors.AGAIN_SECONDS", 0.001)
    failures = [KafkaException(KafkaError(KafkaError._TRANSPORT))] * 3

    def ends() -> int:
        if failures:
            raise failures.pop()
        return 0

    bench.mirrors, _ = mirrors_of(bench, ends)
    bench.start()
    await bench.turned("x")
    await until(lambda: isinstance(bench.stage, Curious) and len(bench.stage.seen) == 2)
    assert bench.failures == []


async def test_a_partition_that_is_given_up_does_not_wait_for_a_mirror(bench: Bench) -> None:
    bench.mirrors, _ = mirrors_of(bench, lambda: 7)
    bench.start()
    await bench.turned("x")
    began = time.monotonic()
    await bench.partition.stop()
    assert time.monotonic() - began < SOON / 2
