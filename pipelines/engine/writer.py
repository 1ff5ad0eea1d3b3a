"""What commits the turns of one partition, whatever becomes of the connection: the event loop's side of Transactions.

A producer opened before the latest loss of the connection is opened anew before it is used. A commit whose outcome is not known is
asked about until Kafka answers; a turn that has not happened is sent again. Only what Kafka refuses again and again fails.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import TypeVar

import structlog

from pipelines.engine import transactions as limits
from pipelines.engine.line import Line
from pipelines.engine.link import Link, Unanswered
from pipelines.engine.transactions import CommitFailed, Fenced, Held, OutcomeUnknown, Transactions, Turn, Unreachable

TRIES = 3  # of a turn, each ended by a Kafka that answers
AGAIN_SECONDS = 0.1
AWAY_SECONDS = 10.0  # between two tries while Kafka is known to be away
TELL_SECONDS = 10.0
T = TypeVar("T")
log = structlog.get_logger(__name__)


class Writer:
    """Of one partition. `give_up_in` bounds the wait for a Kafka that does not answer; without it, it waits for ever."""

    def __init__(self, transactions: Transactions, line: Line, link: Link) -> None:
        self.transactions = transactions
        self._line = line
        self._link = link
        self._losses = link.losses
        self._give_up_at: float | None = None

    def give_up_in(self, seconds: float | None) -> None:
        """The partition is being given up: a turn that cannot be committed by then is left, as if another worker had it."""
        self._give_up_at = None if seconds is None else time.monotonic() + seconds

    def knows(self, held: Mapping[tuple[str, int], Held]) -> None:
        """What the group holds for the partition's sources, asked after the fence."""
        self._give_up_at = None
        self.transactions.knows(held)

    async def commit(self, turn: Turn) -> Mapping[str, int]:
        """Commits a turn; returns, for each changelog written to, the offset after its last row. Raises Fenced or CommitFailed."""
        if self._losses != self._link.losses:
            await self._reopen(None)
        for tried in range(1, TRIES + 1):
            self.transactions.send(turn)
            try:
                seconds = limits.COMMIT_SECONDS + limits.OVERTIME_SECONDS
                return await self._link.answer(self._line, seconds, self.transactions.commit, turn)
            except (OutcomeUnknown, Unanswered) as error:
                log.warning("outcome of a commit not known", transaction=self.transactions.id, detail=str(error))
                ends = await self._reopen(turn)
                if ends is not None:
                    return ends
                if tried == TRIES:
                    raise CommitFailed(f"{error}; {TRIES} times") from error
        raise AssertionError("not reached")

    def close(self) -> None:
        """No further turn is committed. Does not block."""
        self._line.leave()
        self.transactions.leave()

    def _patience(self) -> float:
        if self._give_up_at is None:
            return AWAY_SECONDS
        return min(AWAY_SECONDS, max(0.0, self._give_up_at - time.monotonic()))

    async def _reopen(self, turn: Turn | None) -> Mapping[str, int] | None:
        """What Transactions.reopen says, as soon as Kafka answers."""
        self._line.leave()  # its thread may be in a call that never returns
        tell_at = time.monotonic()
        while True:
            await self._link.until_found(self._patience())
            losses = self._link.losses
            try:
                seconds = limits.COMMIT_SECONDS + limits.OVERTIME_SECONDS
                ends = await self._link.answer(
                    self._line, seconds, self.transactions.reopen, turn, whatever_is_lost=True
                )
            except (Unreachable, Unanswered) as error:
                self._line.leave()
                if self._give_up_at is not None and time.monotonic() > self._give_up_at:
                    raise Fenced(f"{self.transactions.id}: given up, Kafka does not answer: {error}") from error
                if time.monotonic() >= tell_at:
                    tell_at = time.monotonic() + TELL_SECONDS
                    log.warning("waiting for Kafka", transaction=self.transactions.id, error=str(error))
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                self._losses = losses
                return ends
