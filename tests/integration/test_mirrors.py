"""Mirrors on Kafka: complete from the start, never behind an answer about the end, and they end the worker when they cannot follow."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # exported there, not in its __all__

from pipelines.contacts import contact_in
from pipelines.engine.mirrors import Mirrors
from pipelines.engine.stage import Call, EndOf, Mirrored
from pipelines.engine.topic_identity import TopicIdentity
from schemas import codec
from schemas.kafka_access import KafkaAccess
from schemas.records import Address, Contact
from tests.support.builders import NOW
from tests.support.engine_harness import await_true
from tests.support.toy_stage import Toy

PARTITIONS = 3
STAGE = Toy("toy")  # it makes no calls: the engine answers calls with `end_of`


class World:
    """A compacted topic, a producer for it, and mirrors of it."""

    def __init__(self, kafka_url: str, topic: str) -> None:
        self.kafka_url = kafka_url
        self.topic = topic
        self.failures: list[str] = []
        self.admin = AdminClient(KafkaAccess(kafka_url).settings("test"))
        self.producer = Producer({**KafkaAccess(kafka_url).settings("test"), "enable.idempotence": True})
        self.topic_identity = TopicIdentity(
            stage="toy", kafka=KafkaAccess(kafka_url), group=topic, sources=(), changelogs={}
        )
        self.partitions = [(topic, number) for number in range(PARTITIONS)]
        self.made: list[Mirrors] = []

    def create(self, policy: str = "compact") -> None:
        new = NewTopic(self.topic, PARTITIONS, 1, config={"cleanup.policy": policy})
        self.admin.create_topics([new])[self.topic].result(30)

    def mirrors(self, decode: Callable[[bytes, bytes], Any] = lambda _, value: value) -> Mirrors:
        mirrored = Mirrored(self.topic, decode)
        self.made.append(
            Mirrors(
                [mirrored], kafka=KafkaAccess(self.kafka_url), ends=self.topic_identity.ends, fail=self.failures.append
            )
        )
        return self.made[-1]

    def produce(self, key: bytes, value: bytes | None = b"value", producer: Producer | None = None) -> None:
        (producer or self.producer).produce(self.topic, value, key)
        assert (producer or self.producer).flush(30) == 0

    def transaction(self) -> Producer:
        """A producer with an open transaction."""
        made = Producer({**KafkaAccess(self.kafka_url).settings("test"), "transactional.id": f"{self.topic}-app"})
        made.init_transactions(30)
        made.begin_transaction()
        return made

    async def passed(self, mirrors: Mirrors) -> EndOf:
        answer = await mirrors.perform(STAGE, Call("k", (), end_of=self.topic))
        assert isinstance(answer, EndOf)
        return answer


@pytest.fixture
async def world(kafka_url: str, unique: str) -> AsyncIterator[World]:
    made = World(kafka_url, unique)
    yield made
    for mirrors in made.made:
        await mirrors.stop()


async def test_it_is_complete_from_the_start_and_holds_what_was_acknowledged_before_it_was_asked(world: World) -> None:
    world.create()
    for number in range(200):
        world.producer.produce(world.topic, b"first", b"%d" % number)
    world.producer.produce(world.topic, None, b"7")
    assert world.producer.flush(30) == 0
    mirrors = world.mirrors()
    await mirrors.start()
    view = mirrors.views[world.topic]
    assert len(view) == 199
    behind = 0
    for number in range(100):
        await asyncio.to_thread(world.produce, b"new-%d" % number)
        behind += view.get(b"new-%d" % number) is None
        answer = await world.passed(mirrors)
        assert view.get(b"new-%d" % number) == b"value"
        assert all(answer.position[partition] <= answer.end[partition] for partition in range(PARTITIONS))
        assert sum(answer.end.values()) == 201 + number + 1
    print(f"behind {behind} times of 100 before it was asked")
    assert behind, "else the test shows nothing"
    assert not world.failures


async def test_it_keeps_what_it_had_of_a_key_whose_new_record_does_not_belong_there(world: World) -> None:
    """Before it was complete and after, also with a record without a key and a tombstone."""
    world.create()

    def contact(user_id: str, address: str) -> bytes:
        addresses = (Address(channel="whatsapp", address=address),)
        return codec.encode(Contact(user_id=user_id, addresses=addresses, updated_at=NOW))

    def addresses() -> dict[str, str]:
        found = {key: mirrors.views[world.topic].get(key.encode()) for key in ("ana", "bob", "eva")}
        return {key: each.addresses[0].address for key, each in found.items() if each is not None}

    for key, value in (("ana", contact("ana", "1")), ("ana", contact("bob", "666")), ("bob", b"junk")):
        world.produce(key.encode(), value)
    world.producer.produce(world.topic, contact("eva", "666"))
    mirrors = world.mirrors(contact_in)
    await mirrors.start()
    assert addresses() == {"ana": "1"}
    for key, value in (("ana", contact("eva", "666")), ("eva", contact("eva", "2")), ("bob", contact("bob", "3"))):
        await asyncio.to_thread(world.produce, key.encode(), value)
    await asyncio.to_thread(world.produce, b"bob", None)
    await world.passed(mirrors)
    assert addresses() == {"ana": "1", "eva": "2"}
    assert not world.failures


async def test_markers_and_aborted_records_at_the_end_are_passed(world: World) -> None:
    world.create()
    mirrors = world.mirrors()
    await mirrors.start()
    for commits in (True, False, True, False, False):
        producer = await asyncio.to_thread(world.transaction)
        await asyncio.to_thread(world.produce, b"of-%d" % commits, b"value", producer)
        await asyncio.to_thread(producer.commit_transaction if commits else producer.abort_transaction)
        await asyncio.wait_for(world.passed(mirrors), 10)
    assert mirrors.views[world.topic].get(b"of-1") == b"value"
    assert mirrors.views[world.topic].get(b"of-0") is None


async def test_what_an_open_transaction_may_hide_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An acknowledged record after another producer's open transaction: no reader sees it yet, and no answer may say that there is none."""
    monkeypatch.setattr("pipelines.engine.mirrors.LOG_SECONDS", 0.2)
    world.create()
    mirrors = world.mirrors()
    await mirrors.start()
    producer = await asyncio.to_thread(world.transaction)
    await asyncio.to_thread(world.produce, b"hides", b"value", producer)
    await asyncio.to_thread(world.produce, b"hides")  # the same key, so the same partition
    asked = asyncio.ensure_future(world.passed(mirrors))
    await asyncio.sleep(1.0)
    assert not asked.done()
    await asyncio.to_thread(producer.abort_transaction)
    await asyncio.wait_for(asked, 10)
    assert mirrors.views[world.topic].get(b"hides") == b"value"


async def test_a_topic_whose_first_records_were_deleted_is_read_from_what_is_left(world: World) -> None:
    world.create("compact,delete")
    for number in range(30):
        world.produce(b"%d" % number)
    ends = {source: end for source, end in world.topic_identity.ends(world.partitions).items() if end}
    before = [TopicPartition(*source, end - 1) for source, end in ends.items()]
    for future in world.admin.delete_records(before).values():
        future.result(30)
    mirrors = world.mirrors()
    await mirrors.start()
    assert len(mirrors.views[world.topic]) == len(ends)
    assert not world.failures


async def test_a_topic_that_does_not_exist_fails_the_start(world: World) -> None:
    with pytest.raises(TimeoutError, match=r"could not be read to its end: .*run `python -m pipelines prepare`"):
        await world.mirrors().start()


async def test_a_topic_that_is_created_again_ends_the_worker(world: World) -> None:
    """The memory holds the old topic; a restart reads the new one."""
    world.create()
    for number in range(30):
        world.produce(b"%d" % number)
    await world.mirrors().start()
    world.admin.delete_topics([world.topic])[world.topic].result(30)
    await asyncio.sleep(1.0)
    world.create()
    await asyncio.to_thread(await_true, lambda: bool(world.failures), "the mirror to stop", 60)
    assert f"mirror of topic {world.topic} stopped" in world.failures[0]
