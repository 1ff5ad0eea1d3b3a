"""An open transaction of another process at a takeover: it is waited for while its writer is a member of the group, and ended otherwise."""

import asyncio
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # exported there, not in its __all__

from pipelines.engine.connection_state import ConnectionState
from pipelines.engine.group_offsets import GroupOffsets
from pipelines.engine.membership import Member
from pipelines.engine.offset_metadata import OffsetMetadata
from pipelines.engine.stage import Source
from pipelines.engine.takeover import Takeover
from pipelines.engine.topic_identity import TopicIdentity
from pipelines.engine.transactions import HeldOffset
from schemas.kafka_access import KafkaAccess


class World(NamedTuple):
    """A source and a changelog with one partition, another process's producer, and a takeover. `members` are those of the group."""

    source: str
    changelog: str
    writer: str
    producer: Producer
    group: GroupOffsets
    topic_identity: TopicIdentity
    takeover: Takeover
    members: set[str]

    def mark(self, turn: int) -> str:
        return OffsetMetadata(turn=f"t.{turn}", writer=self.writer).text()

    def send_offset(self, offset: int) -> None:
        at = TopicPartition(self.source, 0, offset, self.mark(offset))
        # without a member: Kafka takes it as it takes the offsets of a current member
        self.producer.send_offsets_to_transaction([at], Member(self.source, "", -1).metadata(), 30)

    def write_row(self) -> None:
        self.producer.produce(self.changelog, b"row", b"key", 0)
        assert self.producer.flush(30) == 0

    def is_fenced(self) -> bool:
        try:
            self.producer.commit_transaction(30)
        except KafkaException as error:
            return bool(error.args[0].fatal())
        return False


@pytest.fixture
def world(kafka_url: str, unique: str) -> Iterator[World]:
    """The writer has committed offset 5, and has a transaction open."""
    source, changelog, writer = unique, f"{unique}-changelog", f"{unique}-writer"
    admin = AdminClient(KafkaAccess(kafka_url).settings("test"))
    for future in admin.create_topics([NewTopic(topic, 1, 1) for topic in (source, changelog)]).values():
        future.result(30)
    producer = Producer({**KafkaAccess(kafka_url).settings("test"), "transactional.id": writer})
    producer.init_transactions(30)
    group = GroupOffsets(KafkaAccess(kafka_url), unique)
    sources = (Source(source),)
    topic_identity = TopicIdentity(
        stage="toy", kafka=KafkaAccess(kafka_url), group=unique, sources=sources, changelogs={"rows": changelog}
    )
    members: set[str] = set()

    async def asked() -> set[str]:
        return members

    takeover = Takeover(
        kafka=KafkaAccess(kafka_url),
        group=group,
        topic_identity=topic_identity,
        sources=sources,
        connection=ConnectionState(),
        own=lambda: "own",
        members=asked,
    )
    made = World(source, changelog, writer, producer, group, topic_identity, takeover, members)
    producer.begin_transaction()
    made.send_offset(5)
    producer.commit_transaction(30)
    producer.begin_transaction()
    yield made
    group.close()


def always() -> bool:
    return True


def for_some_looks(number: int) -> Callable[[], bool]:
    """True for the first calls only."""
    left = iter(range(number))
    return lambda: next(left, None) is not None


async def test_offsets_that_a_member_is_about_to_commit_are_waited_for(world: World) -> None:
    world.members.add(world.writer)
    world.send_offset(6)
    waiting = asyncio.create_task(world.takeover.offsets([0], always))
    await asyncio.sleep(1.5)  # longer than the wait for a crashed one
    assert not waiting.done()
    assert not await asyncio.to_thread(world.is_fenced)
    assert await waiting == {(world.source, 0): HeldOffset(6, world.mark(6))}


async def test_offsets_of_a_writer_that_is_no_member_are_taken_back_and_it_is_fenced(world: World) -> None:
    world.members.add("somebody")
    world.send_offset(6)
    assert await world.takeover.offsets([0], always) == {(world.source, 0): HeldOffset(5, world.mark(5))}
    assert world.is_fenced()


async def test_rows_of_a_writer_that_is_no_member_do_not_hide_what_comes_after_them(world: World) -> None:
    world.write_row()
    place = (world.changelog, 0)
    assert await world.takeover.offsets([0], always) == {(world.source, 0): HeldOffset(5, world.mark(5))}
    assert world.topic_identity.undecided([place]) == {place}
    assert await world.takeover.changelogs([place], [0], always)
    assert world.topic_identity.undecided([place]) == set()
    assert world.is_fenced()


async def test_a_worker_that_has_lost_its_partitions_fences_no_other(world: World) -> None:
    world.send_offset(6)
    world.write_row()
    assert await world.takeover.offsets([0], for_some_looks(1)) is None
    assert not await world.takeover.changelogs([(world.changelog, 0)], [0], for_some_looks(1))
    assert not world.is_fenced()
    assert await world.takeover.offsets([0], always) == {(world.source, 0): HeldOffset(6, world.mark(6))}
