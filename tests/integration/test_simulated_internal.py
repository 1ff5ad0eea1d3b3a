"""The simulated clients of the internal channel on a real Kafka; our own connector reads what they post."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from connectors.internal.connector import InternalConnector
from schemas import codec
from schemas.client_tokens import ClientToken
from schemas.ids import shown_id
from schemas.kafka_access import KafkaAccess
from schemas.records import Delivery, ReceiptStatus
from simulators.http_server import running
from simulators.internal import InternalSimulator
from simulators.misbehaviour import Misbehaviour
from simulators.provider_log import Log
from tests.support.running_simulators import QUICK, Receiver, Rig, delivery

DELIVERED, READ = ReceiptStatus.DELIVERED, ReceiptStatus.READ
IRREGULAR = {"seed": 3, "double": 0.3, "early": 0.3, "shuffle": 0.3, "read_without_delivered": 0.3}


@pytest.fixture
def topic(kafka_url: str, unique: str) -> str:
    name = f"{unique}-deliveries"
    admin = AdminClient(KafkaAccess(kafka_url).settings("test"))  # must outlive its futures
    for made in admin.create_topics([NewTopic(name, 4, 1)]).values():
        made.result(20)
    return name


@asynccontextmanager
async def clients(
    kafka_url: str, topic: str, *, log: Path | None = None, refusals: int = 0, seed: int = 1, **knobs: float
) -> AsyncIterator[Rig]:
    """Clients whose receipts our connector reads; a wrong token or an unreadable item fails the test."""
    receiver = Receiver(InternalConnector(account="app", tokens=(ClientToken("new"), ClientToken("old"))), refusals)
    runner = web.ServerRunner(web.Server(receiver.take, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    provider = InternalSimulator(
        account="app",
        token="old",
        kafka=KafkaAccess(kafka_url),
        webhook_url=f"http://127.0.0.1:{runner.addresses[0][1]}/webhooks/internal",
        misbehaviour=Misbehaviour().changed(QUICK | knobs),
        seed=seed,
        log=Log(log),
        topic=topic,
    )
    async with running(provider, "127.0.0.1", 0) as port:
        yield Rig(provider, receiver, f"http://127.0.0.1:{port}")
    await runner.cleanup()
    assert receiver.unrecognised == []


def written(kafka_url: str, topic: str, *deliveries: Delivery, aborted: tuple[Delivery, ...] = ()) -> None:
    """Produces deliveries as stage route does, after some of a transaction that is aborted."""
    producer = Producer({**KafkaAccess(kafka_url).settings("test"), "transactional.id": topic})
    producer.init_transactions(20)
    for some, end in ((aborted, producer.abort_transaction), (deliveries, producer.commit_transaction)):
        producer.begin_transaction()
        for each in some:
            producer.produce(topic, codec.encode(each), each.conversation_id.encode())
        producer.flush(20)
        end(20)


def to_people(count: int, first: int = 0) -> list[Delivery]:
    return [
        replace(delivery("internal", n, f"person-{n % 3}"), conversation_id=f"c{n % 3}")
        for n in range(first, first + count)
    ]


def shown(each: Delivery) -> str:
    return shown_id(each.delivery_id, each.tenant_id, each.address)


def statuses(at: Rig, sent: Delivery) -> list[ReceiptStatus]:
    return [each.status for each in at.receiver.receipts if each.provider_message_id == shown(sent)]


def calls(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in log if "verdict" in line]


async def test_each_delivery_comes_once_in_order_and_is_confirmed(kafka_url: str, topic: str) -> None:
    sent = to_people(60)
    written(kafka_url, topic, *sent, aborted=tuple(to_people(5, first=1000)))
    async with clients(kafka_url, topic, refusals=2, **IRREGULAR) as at:  # type: ignore[arg-type]  # numbers only
        await at.receiver.until(lambda: all(READ in statuses(at, each) for each in sent))
        log = await at.log()
    assert Counter(line["text_key"] for line in calls(log)) == {f"msg-{n}": 1 for n in range(60)}
    for person in range(3):
        of_one = [line["text_key"] for line in calls(log) if line["recipient"] == f"person-{person}"]
        assert of_one == [f"msg-{n}" for n in range(person, 60, 3)]
    assert {line["provider_message_id"] for line in calls(log)} == {shown(each) for each in sent}
    everything = {each.delivery_id: statuses(at, each) for each in sent}
    assert any(max(Counter(each).values()) > 1 for each in everything.values()), "doubled"
    assert any(each[:2] == [READ, DELIVERED] for each in everything.values()), "out of order"
    assert any(DELIVERED not in each for each in everything.values()), "read without delivered"
    assert max(line["tries"] for line in log if "receipt" in line) > 1, "posted again after a 503"


async def test_a_second_start_continues_where_the_first_one_was(kafka_url: str, topic: str, tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    first, second = to_people(3), to_people(3, first=3)
    written(kafka_url, topic, *first)
    async with clients(kafka_url, topic, log=log) as at:
        await at.receiver.until(lambda: all(READ in statuses(at, each) for each in first))
    written(kafka_url, topic, *second)
    async with clients(kafka_url, topic, log=log) as at:
        await at.receiver.until(lambda: all(READ in statuses(at, each) for each in second))
        assert sorted(line["text_key"] for line in calls(await at.log())) == ["msg-3", "msg-4", "msg-5"]
    assert log.read_bytes().count(b'"verdict"') == 6


async def test_a_signal_is_no_message_and_nonsense_stops_nothing(kafka_url: str, topic: str) -> None:
    signal = replace(delivery("internal", 0, "ana", ""), kind="typing")
    seen = delivery("internal", 1, "ana")
    producer = Producer(KafkaAccess(kafka_url).settings("test"))
    for value in (b"\x00nonsense", codec.encode(signal), codec.encode(seen)):
        producer.produce(topic, value, b"c0")
    assert producer.flush(20) == 0
    async with clients(kafka_url, topic, fail_rate=1.0) as at:
        await at.receiver.until(lambda: bool(at.receiver.receipts))
        log = await at.log()
        health = await at.get("/_control/health")
        assert (await at.post("/v1/messages", {}))[0] == 404
    (failed,) = at.receiver.receipts
    assert (failed.provider_message_id, failed.status, failed.error_code) == (
        shown(seen),
        ReceiptStatus.FAILED,
        "not_shown",
    )
    assert [(line["kind"], line["provider_message_id"], line["verdict"]) for line in calls(log)] == [
        ("unreadable", None, "rejected"),
        ("typing", None, "accepted"),
        ("text", shown(seen), "accepted"),
    ]
    assert health[1] == {"provider": "internal", "lines": len(log), "pending": 0}


async def test_a_client_writes(kafka_url: str, topic: str) -> None:
    async with clients(kafka_url, topic) as at:
        status, answer = await at.control("/_control/inbound", **{"from": "ana", "text": "olá"})
        await at.receiver.until(lambda: bool(at.receiver.inbound))
        assert (await at.control("/_control/inbound", text="without a sender"))[0] == 400
    (message,) = at.receiver.inbound
    assert (status, message.provider_message_id) == (202, answer["id"])
    assert (message.address, message.kind, message.text) == ("ana", "text", "olá")
