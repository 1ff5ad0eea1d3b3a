"""What commits the turns of a worker: those that wait go together, in one Kafka transaction; at most one is open.

In: turns, each handed over by its partition, which waits. Out: the ends of its changelogs, or why it cannot be. While one transaction
commits, the next gathers. A producer opened before the latest loss of the connection is opened anew before it is used. A commit whose
outcome is not known is asked about until Kafka answers; what has not happened is sent again. Only what Kafka refuses again and again
fails, and then its partition alone is to blame: the turns are repeated one by one. After a fence nothing is committed until `open`.
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

# Between two transactions at least: the broker writes the markers of the last one. A begin before that is refused and tried again
# (measured with librdkafka's default back-off: p95 of a transaction 128 ms back to back, 7 ms with this rest).
REST_SECONDS = 0.003
MOST_BYTES = 128 << 20  # of values in a transaction; two of the largest turns
TRIES = 3  # of a transaction, each ended by a Kafka that answers
AGAIN_SECONDS = 0.1
UNAVAILABLE_SECONDS = 10.0  # between two tries while Kafka is known to be away
LOG_SECONDS = 10.0
Waiting = tuple[TurnContents, "asyncio.Future[Ends]"]
log = structlog.get_logger(__name__)


class Writer:
    """Of one worker; lives in its event loop. It rests `rest_seconds` after a transaction of several turns: others gather meanwhile. A
    turn that was alone had no company to wait for, and the next is not kept waiting either. `give_up_in` bounds the wait for a Kafka
    that does not answer; without it, it waits for ever. `fenced` says why nothing is committed."""

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
        self._next_at = 0.0  # not before, in the event loop's time
        self._losses = -1  # of the link when the producer was opened
        self._waiting: list[Waiting] = []
        self._task: asyncio.Task[None] | None = None
        self._give_up_at: float | None = None

    async def open(self, member: Member) -> None:
        """Before partitions are taken over in the name of this member: what this worker left open itself is ended, and it commits again.
        No turn may be under way. Waits for Kafka as long as it takes."""
        self.transactions.member = member
        self._give_up_at = None
        while self._losses != self._connection.losses or self.fenced is not None:
            try:
                await self._reopen(None, limits.COMMIT_SECONDS)
                self.fenced = None
            except IdTaken as error:  # by one that took us for dead, in the same moment
                log.warning("opened again", error=str(error))
                await asyncio.sleep(AGAIN_SECONDS)

    def give_up_in(self, seconds: float | None) -> None:
        """The partitions are being given up: what cannot be committed by then is left, as if another worker had them."""
        self._give_up_at = None if seconds is None else time.monotonic() + seconds

    def note_held(self, held: Mapping[tuple[str, int], HeldOffset]) -> None:
        """What the group holds for the sources of a partition that is taken over."""
        self.transactions.note_held(held)

    def is_last(self, sources: Iterable[tuple[str, int]], held: Mapping[tuple[str, int], HeldOffset]) -> bool:
        """Whether what the group holds for these sources is what this worker committed last."""
        return self.transactions.is_last(sources, held)

    async def commit(self, turn: TurnContents) -> Ends:
        """Commits a turn, together with those that wait; returns, for each changelog written to, the offset after its last row. Raises
        Fenced or CommitFailed."""
        future: asyncio.Future[Ends] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="commits")
        return await future

    def close(self) -> None:
        """Nothing more is committed. Does not block."""
        self._executor.abandon()
        self.transactions.close()

    # --- gathering --------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Commits until nobody waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            await asyncio.sleep(max(0.0, self._next_at - loop.time()))
            gathered = self._gathered()
            outcomes = await self._outcomes([turn for turn, _ in gathered])
            self._next_at = loop.time() + (self._rest_seconds if len(gathered) > 1 else REST_SECONDS)
            for (_, future), outcome in zip(gathered, outcomes, strict=True):
                if future.done():
                    continue  # nobody waits any more
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
        self._task = None

    def _gathered(self) -> list[Waiting]:
        """Who waits, in the order of their coming, as far as their values have room in one transaction."""
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
        """What becomes of each turn. One that is tried alone after it was tried with others is tried once."""
        try:
            return list(await self._together(turns, tries))
        except Fenced as error:
            return [type(error)(str(error)) for _ in turns]
        except CommitFailed as error:
            if len(turns) == 1:
                return [error]
            log.warning("turns are committed one by one, to find whose it is", turns=len(turns), error=str(error))
        except Exception as error:  # noqa: BLE001  # it belongs to whoever waits
            return [error for _ in turns]
        return [outcome for turn in turns for outcome in await self._outcomes([turn], 1)]

    async def _together(self, turns: Sequence[TurnContents], tries: int) -> Sequence[Ends]:
        """One transaction, tried until it has happened or cannot be."""
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
        """What Transactions.reopen says, as soon as Kafka answers."""
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
