"""Faust's transport, replaced: membership, assignment and tables remain Faust's; the records come in batches through Fetch.

Enters: batches of Fetch. Leaves: Faust events; one batch of one partition is one event. aiokafka holds the group membership only, with
every partition paused. Nothing is committed from here: offsets are committed inside the turns' transactions, and Faust's own
acknowledgements commit nothing.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any

import faust
import structlog
from aiokafka.client import CoordinationType
from aiokafka.errors import NoError, UnknownMemberIdError, for_code
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.group import LeaveGroupRequest
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP, ConsumerMessage
from mode import Service

from pipelines.engine.membership import Member
from pipelines.engine.worker import Engine
from schemas.tracebacks import described_error

log = structlog.get_logger(__name__)
LOOK_SECONDS = 0.5  # between two looks for crashed workers of this machine
IN_FLIGHT = 2  # batches per source partition between fetch and commit: one in a turn, one ready


class BatchMessage(ConsumerMessage):
    """A batch as Faust sees it. Faust's acknowledgements do nothing. `epoch` is the number of the start of the partitions
    (Engine.epoch)."""

    __slots__ = ("epoch",)

    def ack(self, consumer: Any, n: int = 1) -> bool:  # noqa: ARG002  # Faust's signature
        return False


class NothingRead(dict[TP, int | None]):
    """Faust silently drops records before the last offset that it has read. Batches come again when a turn is not committed and its
    partition starts again, so that Faust must not remember that offset. Old batches are recognized by their epoch."""

    def __getitem__(self, tp: TP) -> None:
        return None

    def __setitem__(self, tp: TP, offset: int | None) -> None:
        pass


class BatchConsumer(driver.Consumer):
    """Yields batches from the engine's Fetch while the flow is active; in the event loop.

    At a rebalance Faust calls `wait_empty` (the engine gives the partitions up), then Listener gets the new assignment, then BulkRecovery
    takes it over, and `perform_seek` starts the partitions.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = NothingRead()
        self.engine: Engine = self.app.engine
        self.in_flight: Counter[tuple[str, int]] = Counter()
        self._news = asyncio.Event()
        self.engine.consumer = self

    def _new_consumer_thread(self) -> Any:
        return MembershipThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def generation(self) -> int:
        return int(self.app.consumer_generation_id)

    def news(self) -> None:
        """Records arrived, or a batch was released."""
        self._news.set()

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[Any, Any]]:  # noqa: ASYNC109  # Faust's signature
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        generation = self.app.consumer_generation_id  # captured before anything is taken
        self._news.clear()
        ready = [tp for tp in self.engine.waiting() if self.in_flight[tp] < IN_FLIGHT]
        if not ready:
            try:
                await asyncio.wait_for(self._news.wait(), timeout)
            except TimeoutError:
                return
        for source in ready:
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return  # what was not taken remains in Fetch, which forgets it at the next assignment
            records = self.engine.take(source)
            if not records:
                continue
            tp = TP(*source)
            last = records[-1]
            self.in_flight[source] += 1
            message = BatchMessage(
                last.topic,
                last.partition,
                last.offset,
                last.timestamp / 1000,
                0,
                (),
                None,
                records,
                None,
                0,
                0,
                tp,
                generation_id=generation,
            )
            message.epoch = self.engine.epoch
            yield tp, message

    def track_message(self, message: Any) -> None:
        """Faust would wait for its own acknowledgement; the engine counts what is in flight."""
        self._on_message_in(message.tp, message.offset, message)

    async def members(self) -> set[str]:
        """The transactional ids of the group's members."""
        return await self._thread.members()  # type: ignore[no-any-return]  # Faust is untyped to us

    async def on_stop(self) -> None:
        await super().on_stop()
        await self.engine.close()

    @Service.task
    async def _remove_crashed_members(self) -> None:
        """Removes crashed workers of this machine from the group, which would wait for them until the session time-out."""
        while not self.should_stop:
            await self.sleep(LOOK_SECONDS)
            try:
                for member_id in self.engine.local_members.crashed():
                    await self._thread.remove_member(member_id)
            except Exception as error:  # noqa: BLE001  # tried again; otherwise the session time-out does the same later
                log.warning("crashed worker still in the group", error=described_error(error))

    async def wait_empty(self) -> None:
        await self.engine.give_up()
        self.in_flight.clear()

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002  # Faust's signature
        return False  # offsets are committed by the turns' transactions, never from here

    async def perform_seek(self) -> None:
        generation = self.app.consumer_generation_id
        await self.engine.start_partitions(lambda: self.engine.is_current(generation))

    async def verify_all_partitions_active(self) -> None:
        """Does nothing: Faust's livelock detector compares clocks of two kinds; the engine's watchdog replaces it."""


class Listener(driver.ConsumerRebalanceListener):
    """Pauses all partitions in aiokafka before it can fetch: it runs synchronously after the assignment, in the thread of Faust's
    consumer."""

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        partitions = set(assigned)
        consumer = self._thread._ensure_consumer()  # noqa: SLF001  # as Faust's own listener does
        consumer.pause(*partitions)
        coordinator, engine = consumer._coordinator, self._thread.app.engine  # noqa: SLF001  # aiokafka has no public access to it
        engine.local_members.enter(coordinator.member_id)
        engine.member = Member(self._thread.app.conf.id, coordinator.member_id, coordinator.generation)
        await super().on_partitions_assigned(partitions)


BatchConsumer.RebalanceListener = Listener


class MembershipThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer thread, always with Faust's assignor, because stages without tables must be co-partitioned too. aiokafka runs in
    this thread; heartbeats continue while the event loop is busy."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        self._assignor = self.app.assignor
        consumer._partition_assignment_strategy = [self._assignor]  # noqa: SLF001  # Faust hardcodes round robin without tables
        consumer._client._client_id = self.app.engine.identity.id  # noqa: SLF001  # the group shows it to the other members; Faust has one id for all
        return consumer

    async def members(self) -> set[str]:
        """The transactional ids of the group's members."""
        return set(await self.call_thread(self._members))

    async def _members(self) -> list[str]:
        client, group = self._ensure_consumer()._client, self.app.conf.id  # noqa: SLF001  # aiokafka has no public way
        node = await client.coordinator_lookup(CoordinationType.GROUP, group)
        answer = await client.send(node, DescribeGroupsRequest([group], False))
        error_code, _, _, _, _, members, *_ = answer.groups[0]
        if (error := for_code(error_code)) is not NoError:
            raise error()
        return [member[1] for member in members]

    async def remove_member(self, member_id: str) -> None:
        """Removes a crashed worker from the group, by a leave request in its name."""
        await self.call_thread(self._remove_member, member_id)

    async def _remove_member(self, member_id: str) -> None:
        client, group = self._ensure_consumer()._client, self.app.conf.id  # noqa: SLF001  # aiokafka has no public way
        node = await client.coordinator_lookup(CoordinationType.GROUP, group)
        # not on the coordinator's own connection: it may wait for a join, which waits for the crashed member
        answer = await client.send(node, LeaveGroupRequest(group, member_id))
        error = for_code(answer.error_code)
        if error not in (NoError, UnknownMemberIdError):
            raise error()
        log.info("crashed worker removed from the group", member=member_id)


class BatchTransport(driver.Transport):
    Consumer = BatchConsumer


class SourceTopics(faust.Topic):
    """All sources of a stage as one Faust topic, which still has a name to show."""

    def get_topic_name(self) -> str:
        """The topics' names. Faust has a name only for a single topic, and its command line fails for several."""
        return ", ".join(self.topics) or str(super().get_topic_name())


class RawBatch(faust.Schema):
    """Gives a batch to the agent as it is. Must never raise: Faust would acknowledge the batch and skip it."""

    def compile(self, app: Any, **kwargs: Any) -> Any:  # noqa: ARG002  # Faust's signature
        create_event = app.create_event

        async def decode(message: Any, *, propagate: bool = False) -> Any:  # noqa: ARG001  # Faust's signature
            return create_event(None, message.value, message.headers, message)

        return decode
