"""Taking partitions over: open transactions of former owners are waited for or ended before anything is read.

Enters: the partitions that this worker has now. Leaves: the offsets that the group holds for them, which no other worker's transaction can
change any more, and changelogs that a reader of committed rows can read to the end. After a clean stop of a former owner this takes some
milliseconds. The transaction of a crashed one would stay open until its time-out. So this worker opens a producer with the same
transactional id, which ends that transaction; the metadata of the last offset holds the id. Guaranteed: this is done only to a writer that
is not a member of the group, and only while this worker has the partitions.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

import structlog
from confluent_kafka import KafkaException

from pipelines.engine import offset_metadata
from pipelines.engine import transactions as limits
from pipelines.engine.connection_state import ConnectionState, Unanswered
from pipelines.engine.group_offsets import GroupOffsets
from pipelines.engine.serial_executor import SerialExecutor
from pipelines.engine.stage import Source
from pipelines.engine.topic_identity import TopicIdentity
from pipelines.engine.transactions import HeldOffset, Transactions, Unreachable, end_open_transaction
from pipelines.engine.writer import Writer
from schemas.kafka_access import KafkaAccess
from schemas.tracebacks import described_error

AGAIN_SECONDS = 0.5
PENDING_SECONDS = 0.5  # after this time an open transaction is taken for one that its writer does not end
LOG_SECONDS = 10.0  # between two log lines about the same wait
TopicPart = tuple[str, int]
log = structlog.get_logger(__name__)


async def while_kafka_starts(
    step: Callable[[], Awaitable[object]], *, is_current: Callable[[], bool], seconds: float
) -> None:
    """Repeats a step of a takeover while Kafka cannot serve it: a broker that has just started knows no leaders yet, or is still loading
    the group. Raises Kafka's own error (KafkaException) after `seconds`, and every other error at once; returns when a newer rebalance
    came."""
    end = time.monotonic() + seconds
    while True:
        try:
            await step()
        except KafkaException as error:
            if time.monotonic() > end:
                raise
            log.warning("Kafka not ready for a takeover", error=error.args[0].str())
            await asyncio.sleep(AGAIN_SECONDS)
            if not is_current():
                return
        else:
            return


class Takeover:
    """The takeovers of one worker; for its event loop, which they do not block: Kafka is asked in threads.

    `own` returns this worker's transactional id. `members` asks the group for the transactional ids of its members and may raise any error.
    Each step takes `is_current` and stops when a newer rebalance made it void.
    """

    def __init__(
        self,
        *,
        kafka: KafkaAccess,
        group: GroupOffsets,
        topic_identity: TopicIdentity,
        sources: Sequence[Source],
        connection: ConnectionState,
        own: Callable[[], str],
        members: Callable[[], Awaitable[Collection[str]]],
    ) -> None:
        self._kafka = kafka
        self._group = group
        self._topic_identity = topic_identity
        self._topics = [source.topic for source in sources]
        self._connection = connection
        self._own = own
        self._members = members
        self._executor = SerialExecutor("end-transactions")
        self._ending: asyncio.Future[None] | None = None
        self._log_at = 0.0

    def writer(self, rest_seconds: float) -> Writer:
        """The writer of the worker's turns, which rests for so long between two transactions. Nothing is opened yet."""
        transactions = Transactions(
            kafka=self._kafka,
            transactional_id=self._own,
            metadata=lambda: self._topic_identity.metadata,
            topic=self._topics[0],
            held=self._group.held,
        )
        return Writer(transactions, SerialExecutor("commit"), self._connection, rest_seconds=rest_seconds)

    async def ended(self) -> None:
        """Waits until this worker is not ending another worker's transaction any more."""
        if self._ending is not None:
            await asyncio.wait([self._ending])

    async def offsets(
        self, numbers: Iterable[int], is_current: Callable[[], bool]
    ) -> dict[TopicPart, HeldOffset] | None:
        """What the group holds for the sources of these partitions, when only this worker's own transactions can still change it. None when
        a newer rebalance came. Waits as long as a member of the group has a transaction open there. Raises KafkaException."""
        sources = self._sources(numbers)
        while is_current():
            held = await asyncio.to_thread(self._group.stable, sources, PENDING_SECONDS)
            if held is not None:
                return held
            await self._end_open_transactions(sources, "offsets of the group", is_current)
        return None

    async def changelogs(
        self, partitions: Collection[TopicPart], numbers: Iterable[int], is_current: Callable[[], bool]
    ) -> bool:
        """Waits until these changelog partitions, which belong to the partitions `numbers`, have no open transaction: a reader of committed
        rows would not see what comes after it. To be called after `offsets`. False when a newer rebalance came. Raises KafkaException."""
        sources = self._sources(numbers)
        while is_current():
            if await asyncio.to_thread(self._are_decided, partitions):
                return True
            await self._end_open_transactions(sources, "changelogs", is_current)
        return False

    def _are_decided(self, partitions: Collection[TopicPart]) -> bool:
        end = time.monotonic() + PENDING_SECONDS
        while self._topic_identity.undecided(partitions):
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    async def _end_open_transactions(
        self, sources: Sequence[TopicPart], where: str, is_current: Callable[[], bool]
    ) -> None:
        """Ends the transactions of the last writers of these sources, if they are not members of the group: a member ends its transactions
        itself."""
        before = await asyncio.to_thread(self._group.before, sources)
        writers = {offset_metadata.read(held.metadata).writer for held in before.values()} - {"", self._own()}
        members = await self._asked_members()
        gone = sorted(writers - set(members)) if members is not None else []
        if time.monotonic() >= self._log_at:
            self._log_at = time.monotonic() + LOG_SECONDS
            log.warning(
                "open transaction of another worker",
                where=where,
                writers=sorted(writers),
                ended=gone,
                reason="ended now if its writer is no member of the group, else by its writer or by its time-out",
            )
        for writer in gone:
            if is_current():
                await self._end(writer)

    async def _end(self, writer: str) -> None:
        """Fences and ends a writer."""
        seconds = limits.COMMIT_SECONDS + limits.OVERTIME_SECONDS
        step = self._connection.answer(
            self._executor, seconds, end_open_transaction, self._kafka, writer, self._topics[0], whatever_is_lost=True
        )
        self._ending = asyncio.ensure_future(step)
        try:
            await self._ending
        except (Unreachable, Unanswered) as error:
            self._executor.abandon()
            log.warning("open transaction not ended", writer=writer, error=str(error))
            await asyncio.sleep(AGAIN_SECONDS)
        else:
            log.info("open transaction of a crashed or expelled worker ended", writer=writer)

    async def _asked_members(self) -> Collection[str] | None:
        try:
            return await self._members()
        except Exception as error:  # noqa: BLE001  # then no worker is taken for crashed, and the group is asked again
            log.warning("group members not known", error=described_error(error))
            return None

    def _sources(self, numbers: Iterable[int]) -> list[TopicPart]:
        return [(topic, number) for topic in self._topics for number in sorted(numbers)]
