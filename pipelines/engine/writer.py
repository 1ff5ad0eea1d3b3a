"""Commits the turns of a worker: all turns that wait go into one Kafka transaction; at most one transaction is open.

Enters: turns, each from its partition, which waits for the answer. Leaves: the ends of its changelogs, or the error. While one
transaction commits, more turns can gather for the next. A producer opened before the latest loss of the connection is replaced before it
is used again. When the outcome of a commit is not known, Kafka is asked until it answers; turns that were not committed are sent again.
Only what Kafka refuses several times fails; then the turns are repeated one by one, so that only the partition at fault fails. After a
fence nothing is committed until `open`.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence

import structlog

from pipelines.engine import transactions as limits
from pipelines.engine.connection_state import ConnectionState, Unanswered
from pipelines.engine.membership import Member
from pipelines.engine.serial_executor import SerialExecutor
from pipelines.engine.transactions import (
    CommitFailed,
    Ends,
    Fenced,
    HeldOffset,
    IdTaken,
    OutcomeUnknown,
    Sent,
    Transactions,
    TurnContents,
    Unreachable,
)

# The least time between two transactions: the broker still writes the markers of the last one. A begin before that is refused and tried
# again (measured with librdkafka's default back-off: p95 of a transaction 128 ms back to back, 7 ms with this rest).
REST_SECONDS = 0.003
MOST_BYTES = 128 << 20  # of values in a transaction; two of the largest turns
TRIES = 3  # of a transaction, counting only tries to which Kafka gave an answer
AGAIN_SECONDS = 0.1
UNAVAILABLE_SECONDS = 10.0  # between two tries while Kafka is known to be unavailable
LOG_SECONDS = 10.0  # between two log lines about the same wait
Waiting = tuple[TurnContents, "asyncio.Future[Ends]"]
log = structlog.get_logger(__name__)


class Writer:
    """The writer of one worker. All methods run in the worker's event loop and none blocks it; the transactions run in the executor's
    thread.

    After a transaction of several turns it rests for `rest_seconds`, so that more turns gather; after a transaction of one turn it rests
    for REST_SECONDS only. It waits for an unavailable Kafka without end, unless `give_up_in` sets a bound. While `fenced` is not None
    nothing is committed, and it says why.

    At a rebalance the engine first lets all partitions finish (they call `commit`), then calls `open` with the new membership.
    """

    def __init__(
        self,
        transactions: Transactions,
        executor: SerialExecutor,
        connection: ConnectionState,
        *,
        rest_seconds: float = REST_SECONDS,
    ) -> None:
        self.transactions = transactions
        self.fenced: Fenced | None = None
        self._executor = executor
        self._connection = connection
        self._rest_seconds = rest_seconds
        self._next_at = 0.0  # the next transaction starts no earlier; time of the event loop
        self._losses = -1  # losses of the connection when the producer was opened
        self._waiting: list[Waiting] = []
        self._task: asyncio.Task[None] | None = None
        self._give_up_at: float | None = None

    async def open(self, member: Member) -> None:
        """Prepares commits in the name of this member: ends what this worker itself left open, and lifts a fence.

        To be called before partitions are taken over, while no turn is under way. Waits for Kafka as long as it takes. Raises nothing
        that is expected: an id taken by another process is tried again.
        """
        self.transactions.member = member
        self._give_up_at = None
        while self._losses != self._connection.losses or self.fenced is not None:
            try:
                await self._reopen(None, limits.COMMIT_SECONDS)
                self.fenced = None
            except IdTaken as error:  # by a worker that took this one for crashed, at the same moment
                log.warning("producer opened again", error=str(error))
                await asyncio.sleep(AGAIN_SECONDS)

    def give_up_in(self, seconds: float | None) -> None:
        """Bounds the wait for an unavailable Kafka, because the partitions are being given up: a commit whose outcome is still unknown
        after this time raises Fenced. None removes the bound."""
        self._give_up_at = None if seconds is None else time.monotonic() + seconds

    def note_held(self, held: Mapping[tuple[str, int], HeldOffset]) -> None:
        """Notes what the group holds for the sources of a partition that is being taken over."""
        self.transactions.note_held(held)

    def is_last(self, sources: Iterable[tuple[str, int]], held: Mapping[tuple[str, int], HeldOffset]) -> bool:
        """Whether what the group holds for these sources is what this worker committed last."""
        return self.transactions.is_last(sources, held)

    async def commit(self, turn: TurnContents) -> Ends:
        """Commits a turn, together with the turns that wait; returns, for each changelog written to, the offset after its last row.

        Raises CommitFailed when Kafka refuses this turn. Raises Fenced when the partitions may belong to another worker. In both cases
        nothing of the turn is visible to readers, and the caller must not use its memory any more.
        """
        future: asyncio.Future[Ends] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="commits")
        return await future

    def close(self) -> None:
        """Ends the writer; does not block. A client that is stuck is closed by a thread of its own."""
        self._executor.abandon()
        self.transactions.close()

    # --- gathering --------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Commits until no turn waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            await asyncio.sleep(max(0.0, self._next_at - loop.time()))
            gathered = self._gathered()
            outcomes = await self._outcomes([turn for turn, _ in gathered])
            self._next_at = loop.time() + (self._rest_seconds if len(gathered) > 1 else REST_SECONDS)
            for (_, future), outcome in zip(gathered, outcomes, strict=True):
                if future.done():
                    continue  # its caller was cancelled
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
        self._task = None

    def _gathered(self) -> list[Waiting]:
        """The turns that wait, oldest first, as many as have room in one transaction by the bytes of their values; at least one."""
        size = count = 0
        for turn, _ in self._waiting:
            size += _size(turn) if len(self._waiting) > 1 else 0
            if count and size > MOST_BYTES:
                break
            count += 1
        gathered, self._waiting = self._waiting[:count], self._waiting[count:]
        return gathered

    # --- one transaction --------------------------------------------------------------------------------------------------

    async def _outcomes(self, turns: Sequence[TurnContents], tries: int = TRIES) -> list[Ends | Exception]:
        """The result or the error of each turn. A turn that is tried alone, after it was tried with others, is tried once."""
        try:
            return list(await self._together(turns, tries))
        except Fenced as error:
            return [type(error)(str(error)) for _ in turns]
        except CommitFailed as error:
            if len(turns) == 1:
                return [error]
            # to find the one that Kafka refuses
            log.warning("turns committed one by one", turns=len(turns), error=str(error))
        except Exception as error:  # noqa: BLE001  # it is raised in the tasks that wait
            return [error for _ in turns]
        return [outcome for turn in turns for outcome in await self._outcomes([turn], 1)]

    async def _together(self, turns: Sequence[TurnContents], tries: int) -> Sequence[Ends]:
        """One transaction, tried until it has committed or fails for good."""
        if self.fenced is not None:
            raise self.fenced
        try:
            if self._losses != self._connection.losses:
                await self._reopen(None)
            return await self._tried(turns, tries)
        except Fenced as error:
            self.fenced = error
            raise

    async def _tried(self, turns: Sequence[TurnContents], tries: int) -> Sequence[Ends]:
        for tried in range(1, tries + 1):
            sent = self.transactions.send(turns)
            try:
                seconds = limits.COMMIT_SECONDS + limits.OVERTIME_SECONDS
                ends: Sequence[Ends] = await self._connection.answer(
                    self._executor, seconds, self.transactions.commit, sent
                )
            except (OutcomeUnknown, Unanswered) as error:
                log.warning("outcome of a commit not known", transaction=self.transactions.id, detail=str(error))
                found = await self._reopen(sent)
                if found is None and tried == tries:
                    raise CommitFailed(f"{error}; {f'{tries} times' if tries > 1 else 'alone as well'}") from error
                if found is None:
                    continue
                ends = found
            self.transactions.record_committed(sent)
            return ends
        raise AssertionError("not reached")

    def _longest_wait(self) -> float:
        if self._give_up_at is None:
            return UNAVAILABLE_SECONDS
        return min(UNAVAILABLE_SECONDS, max(0.0, self._give_up_at - time.monotonic()))

    async def _reopen(self, sent: Sent | None, seconds: float = limits.REACH_SECONDS) -> Sequence[Ends] | None:
        """What Transactions.reopen returns, as soon as Kafka answers."""
        self._executor.abandon()  # its thread may be in a call that never returns
        log_at = time.monotonic()
        while True:
            await self._connection.until_found(self._longest_wait())
            losses = self._connection.losses
            try:
                whole = limits.COMMIT_SECONDS + limits.OVERTIME_SECONDS
                ends = await self._connection.answer(
                    self._executor, whole, self.transactions.reopen, sent, seconds, whatever_is_lost=True
                )
            except (Unreachable, Unanswered) as error:
                self._executor.abandon()
                if self._give_up_at is not None and time.monotonic() > self._give_up_at:
                    raise Fenced(f"{self.transactions.id}: given up, Kafka does not answer: {error}") from error
                if time.monotonic() >= log_at:
                    log_at = time.monotonic() + LOG_SECONDS
                    log.warning("waiting for Kafka", transaction=self.transactions.id, error=str(error))
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                self._losses = losses
                return ends


def _size(turn: TurnContents) -> int:
    """Bytes of its values."""
    outputs = sum([len(value) for _, _, value, *_ in turn.outputs if value])
    return outputs + sum([len(value) for rows in turn.rows for _, value in rows.changes if value])
