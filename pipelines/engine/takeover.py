"""Taking partitions over: what their former owners left open is waited for or ended before anything is read.

In: the partitions that are ours now. Out: the offsets the group holds for them, which nobody's transaction can change any more, and
changelogs a reader of committed rows can read to the end. A former owner that left in good order needs some milliseconds for that. The
transaction of a dead one would stay until its time-out, so its producer's id is opened, which ends it: the mark of the last offset tells
the id. Only of whoever is no member of the group, and only while the partitions are ours.
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
from pipelines.engine.transactions import HeldOffset, Transactions, Unreachable, end_leftovers
from pipelines.engine.writer import Writer
from schemas.kafka_access import KafkaAccess
from schemas.tracebacks import described_error

AGAIN_SECONDS = 0.5
PENDING_SECONDS = 0.5  # after which a transaction that is still open is taken for one whose writer does not end it
LOG_SECONDS = 10.0
TopicPart = tuple[str, int]
log = structlog.get_logger(__name__)


async def while_kafka_starts(
    step: Callable[[], Awaitable[object]], *, is_current: Callable[[], bool], seconds: float
) -> None:
    """Does a step of a take-over again while Kafka cannot serve it: a broker that has just started knows no leaders yet, or is still
    loading the group. Gives up, with Kafka's own error, after `seconds`; ends without a word when a newer rebalance has come."""
    end = time.monotonic() + seconds
    while True:
        try:
            await step()
        except KafkaException as error:
            if time.monotonic() > end:
                raise
            log.warning("Kafka does not serve a take-over yet", error=error.args[0].str())
            await asyncio.sleep(AGAIN_SECONDS)
            if not is_current():
                return
        else:
            return


class Takeover:
    """Of one worker. `own` is its transactional id, `members` asks the group for the names of its members, which are theirs."""

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
        self._executor = SerialExecutor("leftovers")
        self._ending: asyncio.Future[None] | None = None
        self._log_at = 0.0

    def writer(self, rest_seconds: float) -> Writer:
        """What commits the worker's turns, with so long between two transactions. Nothing is opened yet."""
        transactions = Transactions(
            kafka=self._kafka,
            transactional_id=self._own,
            mark=lambda: self._topic_identity.mark,
            topic=self._topics[0],
            held=self._group.held,
        )
        return Writer(transactions, SerialExecutor("commit"), self._connection, rest_seconds=rest_seconds)

    async def ended(self) -> None:
        """Waits until nobody's leftovers are being ended."""
        if self._ending is not None:
            await asyncio.wait([self._ending])

    async def offsets(
        self, numbers: Iterable[int], is_current: Callable[[], bool]
    ) -> dict[TopicPart, HeldOffset] | None:
        """What the group holds for the sources of these partitions, once no transaction can change it any more but our own; None when a
        newer rebalance came. Raises KafkaException."""
        sources = self._sources(numbers)
        while is_current():
            held = await asyncio.to_thread(self._group.stable, sources, PENDING_SECONDS)
            if held is not None:
                return held
            await self._end_leftovers(sources, "offsets of the group", is_current)
        return None

    async def changelogs(
        self, partitions: Collection[TopicPart], numbers: Iterable[int], is_current: Callable[[], bool]
    ) -> bool:
        """Waits until changelog partitions, those of these numbers, have no transaction open before their end: a reader of what is
        committed would not see what lies behind it. To be asked when the offsets are known. False when a newer rebalance came."""
        sources = self._sources(numbers)
        while is_current():
            if await asyncio.to_thread(self._are_decided, partitions):
                return True
            await self._end_leftovers(sources, "changelogs", is_current)
        return False

    def _are_decided(self, partitions: Collection[TopicPart]) -> bool:
        end = time.monotonic() + PENDING_SECONDS
        while self._topic_identity.undecided(partitions):
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    async def _end_leftovers(self, sources: Sequence[TopicPart], where: str, is_current: Callable[[], bool]) -> None:
        """Ends the transactions of those who wrote last for these sources, should they be dead or expelled: whoever is a member has only
        transactions it may have, and ends them itself."""
        before = await asyncio.to_thread(self._group.before, sources)
        writers = {offset_metadata.read(held.mark).writer for held in before.values()} - {"", self._own()}
        members = await self._asked_members()
        gone = sorted(writers - set(members)) if members is not None else []
        if time.monotonic() >= self._log_at:
            self._log_at = time.monotonic() + LOG_SECONDS
            log.warning(
                "a transaction of somebody else is open where this worker takes over",
                where=where,
                writers=sorted(writers),
                ended=gone,
                reason="ended now if its writer is dead or expelled, else it ends itself or by its time-out",
            )
        for writer in gone:
            if is_current():
                await self._end(writer)

    async def _end(self, writer: str) -> None:
        """Fences and ends a writer."""
        seconds = limits.COMMIT_SECONDS + limits.OVERTIME_SECONDS
        step = self._connection.answer(
            self._executor, seconds, end_leftovers, self._kafka, writer, self._topics[0], whatever_is_lost=True
        )
        self._ending = asyncio.ensure_future(step)
        try:
            await self._ending
        except (Unreachable, Unanswered) as error:
            self._executor.abandon()
            log.warning("leftovers could not be ended, tried again", writer=writer, error=str(error))
            await asyncio.sleep(AGAIN_SECONDS)
        else:
            log.info("leftovers of a dead or expelled worker ended", writer=writer)

    async def _asked_members(self) -> Collection[str] | None:
        try:
            return await self._members()
        except Exception as error:  # noqa: BLE001  # whatever it is: nobody is taken for dead, and the group is asked again
            log.warning("the members of the group could not be asked", error=described_error(error))
            return None

    def _sources(self, numbers: Iterable[int]) -> list[TopicPart]:
        return [(topic, number) for topic in self._topics for number in sorted(numbers)]
