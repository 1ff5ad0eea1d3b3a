"""Fetch on Kafka: each partition complete and in order, however the others are taken, and bounded while nothing is taken."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # exported there, not in its __all__

from pipelines.engine import client_settings
from pipelines.engine import fetch as module
from pipelines.engine.fetch import UNREADABLE, Fetch
from pipelines.engine.stage import Record
from schemas.kafka_access import KafkaAccess
from tests.support.engine_harness import await_true

RECORDS = 30_000
PAUSE_ABOVE = 1000
TURN = 250
MOST_AT_ONCE = PAUSE_ABOVE + 5001  # what one read of librdkafka's queue may add to a partition that is nearly full
GREEDY, HELD, IDLE = range(3)
SECONDS = 60
PATIENT_MS = 20_000  # for which the broker holds a fetch of idle partitions, long enough to notice a wait for it


@pytest.fixture
def topic(kafka_url: str, unique: str) -> str:
    """Three partitions: two with numbered records, one empty."""
    admin = AdminClient(KafkaAccess(kafka_url).settings("test"))
    admin.create_topics([NewTopic(unique, 3, 1)])[unique].result(timeout=30)
    # a retry must not change the order
    producer = Producer({**KafkaAccess(kafka_url).settings("test"), "enable.idempotence": True})
    for number in range(RECORDS):
        for partition in (GREEDY, HELD):
            producer.produce(unique, b"%d" % number, partition=partition)
    assert producer.flush(60) == 0
    return unique


@pytest.fixture
async def fetch(kafka_url: str, unique: str) -> AsyncIterator[Fetch]:
    """A failure of Fetch fails the test."""
    failures: list[str] = []
    made = Fetch(
        kafka=KafkaAccess(kafka_url),
        group=unique,
        pause_above=PAUSE_ABOVE,
        min_bytes=1,
        wait_ms=PATIENT_MS,
        on_records=lambda: None,
        on_failure=failures.append,
        on_lost=lambda: None,
        on_found=lambda: None,
    )
    yield made
    await made.stop()
    assert failures == []


async def take_rest(fetch: Fetch, topic: str, partition: int, after: int = 0) -> list[Record]:
    """The records of a partition after its first `after` records, turn by turn."""
    taken: list[Record] = []
    end = time.monotonic() + SECONDS
    while after + len(taken) < RECORDS and time.monotonic() < end:
        taken += fetch.take((topic, partition), TURN)
        await asyncio.sleep(0)
    return taken


def numbers(records: list[Record]) -> list[int]:
    return [int(record.value or b"") for record in records]


async def test_a_position_that_is_not_there_ends_it(kafka_url: str, topic: str) -> None:
    """Reading neither starts again at the first record nor continues at the end."""
    failure = asyncio.get_running_loop().create_future()
    fetch = Fetch(
        kafka=KafkaAccess(kafka_url),
        group=topic,
        pause_above=1,
        min_bytes=1,
        wait_ms=PATIENT_MS,
        on_records=lambda: None,
        on_failure=failure.set_result,
        on_lost=lambda: None,
        on_found=lambda: None,
    )
    fetch.assign({(topic, GREEDY): RECORDS + 1000})
    assert f"{topic} {GREEDY} no longer has the offset to read next" in await asyncio.wait_for(failure, SECONDS)
    assert fetch.waiting() == []
    await fetch.stop()


async def test_a_partition_held_back_neither_grows_nor_stops_the_others(fetch: Fetch, topic: str) -> None:
    fetch.assign({(topic, number): 0 for number in range(3)})
    greedy = await take_rest(fetch, topic, GREEDY)
    assert numbers(greedy) == list(range(RECORDS))
    held = fetch.take((topic, HELD), RECORDS)
    assert 0 < len(held) <= MOST_AT_ONCE, "read only as far as records may wait in memory"
    held += await take_rest(fetch, topic, HELD, after=len(held))
    assert numbers(held) == list(range(RECORDS))
    assert fetch.take((topic, IDLE), TURN) == []
    await asyncio.to_thread(await_true, lambda: fetch.caught_up((topic, IDLE)), "the end to be noticed", SECONDS)


async def test_when_everything_is_held_back_nothing_more_is_read_until_something_is_taken(
    fetch: Fetch, topic: str
) -> None:
    fetch.assign({(topic, GREEDY): 0, (topic, HELD): 0})
    await asyncio.to_thread(await_true, lambda: len(fetch.waiting()) == 2, "records of both", SECONDS)
    both = await asyncio.gather(take_rest(fetch, topic, GREEDY), take_rest(fetch, topic, HELD))
    assert [numbers(records) for records in both] == [list(range(RECORDS))] * 2
    await asyncio.to_thread(await_true, lambda: fetch.caught_up((topic, GREEDY)), "the end to be noticed", SECONDS)


async def test_a_new_assignment_is_read_while_the_former_one_was_full(fetch: Fetch, topic: str) -> None:
    fetch.assign({(topic, HELD): 0})
    await asyncio.to_thread(await_true, lambda: bool(fetch.waiting()), "records", SECONDS)
    fetch.assign({(topic, GREEDY): RECORDS - 10})
    found = await take_rest(fetch, topic, GREEDY, after=RECORDS - 10)
    assert numbers(found) == list(range(RECORDS - 10, RECORDS))
    assert fetch.take((topic, HELD), TURN) == []


async def test_an_assignment_does_not_wait_for_the_fetch_that_an_idle_source_has_out(
    monkeypatch: pytest.MonkeyPatch, fetch: Fetch, topic: str
) -> None:
    monkeypatch.setattr(module, "_CALM_SECONDS", 0.1)
    fetch.assign({(topic, IDLE): 0})
    await asyncio.sleep(1)  # nothing shows that the broker holds the fetch
    began = time.monotonic()
    fetch.assign({(topic, GREEDY): 0})
    await asyncio.to_thread(await_true, lambda: bool(fetch.waiting()), "records", SECONDS)
    assert time.monotonic() - began < PATIENT_MS / 4000


async def test_an_idle_source_is_asked_for_as_rarely_as_its_stage_says_and_a_lone_record_comes_at_once(
    monkeypatch: pytest.MonkeyPatch, kafka_url: str, unique: str, topic: str
) -> None:
    """Kafka's client counts its own requests."""
    asked: list[int] = []

    def count(text: str) -> None:
        asked.append(sum(broker["req"].get("Fetch", 0) for broker in json.loads(text)["brokers"].values()))

    def counted(kafka: KafkaAccess, client: str, **more: Any) -> dict[str, Any]:
        return {**settings(kafka, client, **more), "statistics.interval.ms": 100, "stats_cb": count}

    settings = client_settings.settings
    monkeypatch.setattr(module, "_CALM_SECONDS", 0.0)
    monkeypatch.setattr(client_settings, "settings", counted)
    fetch = Fetch(
        kafka=KafkaAccess(kafka_url),
        group=unique,
        pause_above=PAUSE_ABOVE,
        min_bytes=1,
        wait_ms=500,
        on_records=lambda: None,
        on_failure=lambda _: None,
        on_lost=lambda: None,
        on_found=lambda: None,
    )
    try:
        fetch.assign({(topic, IDLE): 0})
        await asyncio.to_thread(await_true, lambda: fetch.caught_up((topic, IDLE)), "the end to be noticed", SECONDS)
        before = asked[-1] if asked else 0
        await asyncio.sleep(4)
        assert 0 < asked[-1] - before <= 4 * 2 + 1
        producer = Producer(KafkaAccess(kafka_url).settings("test"))
        producer.produce(topic, b"lone", partition=IDLE)
        assert producer.flush(SECONDS) == 0
        produced = time.monotonic()
        await asyncio.to_thread(await_true, lambda: bool(fetch.waiting()), "the record", SECONDS)
        assert time.monotonic() - produced < 0.25
    finally:
        await fetch.stop()


PRODUCER = """
import asyncio, sys
from aiokafka import AIOKafkaProducer
from schemas.kafka_access import KafkaAccess

class Name(str):
    def encode(self, *given):
        return b"\\xff\\xfe"

async def produce():
    producer = AIOKafkaProducer(bootstrap_servers=sys.argv[1])
    await producer.start()
    await producer.send_and_wait(sys.argv[2], b"value", partition=int(sys.argv[3]), headers=[(Name("name"), b"1")])
    await producer.stop()

asyncio.run(produce())
"""


async def test_a_header_whose_name_is_no_text_stops_nothing(fetch: Fetch, kafka_url: str, topic: str) -> None:
    """The client raises on it, and its own producer would end this process: aiokafka's producer, without its C part, writes it."""
    environment = {**os.environ, "AIOKAFKA_NO_EXTENSIONS": "1"}
    command = [sys.executable, "-c", PRODUCER, kafka_url, topic, str(GREEDY)]
    await asyncio.to_thread(subprocess.run, command, env=environment, check=True)
    fetch.assign({(topic, GREEDY): RECORDS})
    found: list[Record] = []

    def came() -> bool:
        found.extend(fetch.take((topic, GREEDY), TURN))
        return bool(found)

    await asyncio.to_thread(await_true, came, "the record", SECONDS)
    (record,) = found
    assert (record.value, record.headers) == (b"value", ((UNREADABLE, b"their names are not UTF-8"),))
