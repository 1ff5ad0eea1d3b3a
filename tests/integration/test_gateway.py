"""The gateway with a real Kafka that is available, unavailable, or refuses records: every item is stored, or a dead letter, or gets a 503.

The channel is the toy one (tests/toy_channel): its webhook passes on every item.
"""

import asyncio
import dataclasses
import io
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import orjson
import pytest
from aiohttp.test_utils import TestClient, TestServer
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported there, not in its __all__
    AdminClient,
    NewTopic,
)

from pipelines import topics
from pipelines.acknowledged_producer import AcknowledgedProducer, NotAcknowledged, OutgoingRecord
from pipelines.gateway import Gateway
from schemas import codec
from schemas.catalog import TOPICS
from schemas.kafka_access import KafkaAccess
from schemas.records import DeadLetter, InboundMessage, Receipt
from stack.service import Child
from tests.support.engine_harness import await_true, limit_topic, read_back
from tests.support.own_kafka import own_kafka
from tests.toy_channel.pigeon import Pigeon

TOKEN = "made-up-token"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """A Kafka for these tests only, because they stop it and the names of topics are fixed."""
    with own_kafka(tmp_path_factory.mktemp("gateway")) as child:
        yield child


class Running(NamedTuple):
    """A gateway and the Kafka behind it."""

    client: "TestClient[Any, Any]"
    probe: "TestClient[Any, Any]"
    kafka_url: str

    async def post(self, *, landed: list[str] = [], notes: list[tuple[str, str]] = []) -> Any:  # noqa: B006  # never changed
        """A webhook with a receipt for each ring, and a message for each (ring, note)."""
        body = {
            "landed": [{"ring": ring} for ring in landed],
            "notes": [{"from": "loft-2", "ring": ring, "note": note} for ring, note in notes],
        }
        return await self.client.post(
            "/webhooks/pigeon", data=io.BytesIO(orjson.dumps(body)), headers={"X-Loft-Token": TOKEN}
        )

    def kept(self, topic: str) -> list[Any]:
        return [codec.decode_any(value) for _, _, value in read_back(self.kafka_url, topic)]

    def receipts(self) -> list[str]:
        return [each.provider_message_id for each in self.kept("receipts") if isinstance(each, Receipt)]

    def texts(self) -> list[str]:
        """The texts of the inbound messages."""
        return [each.text for each in self.kept("inbound") if isinstance(each, InboundMessage)]

    def letters(self, topic: str) -> list[DeadLetter]:
        return [
            each for each in self.kept("dead-letters") if isinstance(each, DeadLetter) and each.source_topic == topic
        ]

    async def metrics(self) -> str:
        return await (await self.probe.get("/metrics")).text()


@pytest.fixture
async def running(broker: Child) -> AsyncIterator[Running]:
    producer = AcknowledgedProducer(
        KafkaAccess(broker.service.url), asyncio.get_running_loop(), delivery_timeout_ms=2_000
    )
    pigeon = Pigeon(url="http://127.0.0.1:1", loft="loft-1", token=TOKEN, timeout_seconds=1.0)
    gateway = Gateway(connectors={"pigeon": pigeon}, producer=producer, partitions=2)
    async with TestClient(TestServer(gateway.app)) as client, TestClient(TestServer(gateway.probe)) as probe:
        yield Running(client, probe, broker.service.url)


async def test_an_item_no_record_can_hold_is_a_dead_letter_and_the_rest_is_kept(
    running: Running, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items of a connector fit the declared topics; here `inbound` takes less than a long text needs."""
    monkeypatch.setitem(TOPICS, "inbound", dataclasses.replace(TOPICS["inbound"], max_bytes=21_024))
    large = "n" * 60_000
    answer = await running.post(landed=[unique], notes=[(f"{unique}-0", large), (f"{unique}-1", f"small {unique}")])
    assert (answer.status, [line[:8] for line in (await answer.text()).splitlines()]) == (200, ["ok", "refused:"])
    assert unique in running.receipts()
    assert [text for text in running.texts() if unique in text or len(text) > 1_000] == [f"small {unique}"]
    [letter] = running.letters("inbound")
    assert (letter.stage, letter.cause, letter.tenant_id) == ("gateway", "too_large_for_kafka", "default")
    assert (letter.source_partition, letter.source_offset) == (-1, -1)
    assert "inbound" in letter.detail
    assert codec.decode(letter.value, InboundMessage).text == large
    shown = await running.metrics()
    assert 'chat4all_dead_letters_total{cause="too_large_for_kafka",stage="gateway"} 1.0' in shown
    assert 'chat4all_webhook_items_total{channel="pigeon",kind="refused"} 1.0' in shown


async def test_a_record_is_produced_to_the_partition_it_names(broker: Child, unique: str) -> None:
    admin = AdminClient(KafkaAccess(broker.service.url).settings("test"))
    admin.create_topics([NewTopic(unique, 3, 1)])[unique].result(timeout=30)
    producer = AcknowledgedProducer(KafkaAccess(broker.service.url), asyncio.get_running_loop())
    try:
        assert (
            await producer.produce([OutgoingRecord(unique, b"k", b"%d" % number, number) for number in (2, 0, 1, 2)])
            == []
        )
    finally:
        await producer.close()
    consumer = Consumer({**KafkaAccess(broker.service.url).settings("test"), "group.id": unique})
    ends = [consumer.get_watermark_offsets(TopicPartition(unique, number), timeout=10)[1] for number in range(3)]
    consumer.close()
    assert ends == [1, 1, 2]


async def test_what_people_write_without_end_is_cut_and_kept(running: Running, unique: str) -> None:
    """End to end: a text of two megabytes, an id of 700 kB, and an ordinary item with them."""
    answer = await running.post(
        landed=[f"{unique}-0", "r" * 700_000], notes=[(f"{unique}-2", f"{unique} " + "n" * 2_300_000)]
    )
    assert answer.status == 200
    assert [line[:14] for line in (await answer.text()).splitlines()] == ["ok", "not recognised"]
    assert [each for each in running.receipts() if unique in each] == [f"{unique}-0"]
    [text] = [text for text in running.texts() if text.startswith(f"{unique} ")]
    assert 10_000 < len(text.encode()) <= 65_536


async def test_what_the_broker_alone_finds_too_large_costs_nothing_beside_it(running: Running, unique: str) -> None:
    """An operator lowered the topic's limit: the broker refuses the whole batch, so records are retried in smaller batches."""
    admin = AdminClient(KafkaAccess(running.kafka_url).settings("test"))
    await asyncio.to_thread(limit_topic, admin, "receipts", 900)
    rings = [f"{unique}-{number}" for number in range(9)]
    large = [f"{unique}-large-{number}-".ljust(500, "r") for number in range(2)]
    try:
        answer = await running.post(landed=[*rings[:4], large[0], *rings[4:], large[1]])
    finally:
        await asyncio.to_thread(limit_topic, admin, "receipts", TOPICS["receipts"].max_bytes)
    assert answer.status == 200
    kept = running.receipts()
    assert sorted(each for each in kept if unique in each) == rings
    letters = [
        codec.decode(each.value, Receipt)
        for each in running.letters("receipts")
        if unique.encode() in (each.key or b"")
    ]
    assert sorted(each.provider_message_id for each in letters) == large


async def test_while_kafka_is_unavailable_a_webhook_is_answered_503(
    running: Running, broker: Child, unique: str
) -> None:
    assert (await running.post(landed=[f"{unique}-before"])).status == 200
    broker.stop()
    try:
        answer = await running.post(landed=[unique], notes=[(f"{unique}-0", "n" * 2_300_000)])
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    finally:
        broker.start()
        broker.wait()
    assert (await running.post(landed=[unique])).status == 200
    assert unique in running.receipts()


async def test_a_missing_topic_is_a_temporary_error(broker: Child, unique: str) -> None:
    """Webhooks with records for it are answered 503 until it exists; no record becomes a dead letter."""
    admin = AdminClient(KafkaAccess(broker.service.url).settings("test"))
    admin.create_topics([NewTopic(unique, 1, 1)])[unique].result(timeout=30)
    loop = asyncio.get_running_loop()
    producer = AcknowledgedProducer(
        KafkaAccess(broker.service.url), loop, topic_metadata_propagation_max_ms=2_000, delivery_timeout_ms=2_000
    )

    async def taken() -> bool:
        try:
            return await producer.produce([OutgoingRecord(unique, b"k", b"w")]) == []
        except NotAcknowledged:
            return False

    try:
        assert await taken()
        admin.delete_topics([unique])[unique].result(timeout=30)
        await asyncio.to_thread(await_true, lambda: unique not in admin.list_topics(timeout=10).topics, "its end", 20)
        for _ in range(3):  # before and after librdkafka reports that it is missing
            assert not await taken()
        admin.create_topics([NewTopic(unique, 1, 1)])[unique].result(timeout=30)
        end = loop.time() + 30
        while not await taken():
            assert loop.time() < end, "the topic exists again"
    finally:
        await producer.close()


async def test_after_a_fatal_error_a_new_producer_goes_on(
    broker: Child, unique: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """An idempotent producer that must leave no gap (librdkafka) can send nothing after a refused record: a fatal error."""
    admin = AdminClient(KafkaAccess(broker.service.url).settings("test"))
    small = NewTopic(unique, 1, 1, config={topics.LIMIT: "1000"})
    admin.create_topics([small])[unique].result(timeout=30)
    producer = AcknowledgedProducer(
        KafkaAccess(broker.service.url), asyncio.get_running_loop(), enable_gapless_guarantee=True
    )
    try:
        assert await producer.produce([OutgoingRecord(unique, b"k", b"first")]) == []
        outcomes = await asyncio.gather(
            *[producer.produce([OutgoingRecord(unique, b"k", value)]) for value in (b"x" * 5_000, b"beside it")],
            return_exceptions=True,
        )
        assert any(outcomes)
        await asyncio.to_thread(await_true, lambda: producer.opened == 2, "a new producer", 20)
        assert await producer.produce([OutgoingRecord(unique, b"k", b"again")]) == []
    finally:
        await producer.close()
    assert producer.opened == 2
    assert "%0|" not in capfd.readouterr().err
    assert b"again" in [value for _, _, value in read_back(broker.service.url, unique)]
