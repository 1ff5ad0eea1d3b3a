"""The archive: messages, conversations, deliveries and every transition in PostgreSQL.

Enters: batches of records, of one or several partitions, and the offset that each partition reaches. Leaves: one transaction per batch.
Guaranteed: exactly-once (sinks/postgres_sink.py); merging a batch again changes nothing. Rows of a month that retention has dropped do
not come back. Partitions for the coming months are there before their first row.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import psycopg
import structlog
from psycopg import AsyncConnection

from schemas.records import Cursor, DeliveryState, SequencedMessage
from schemas.retention_days import KEEP_ALL, Retention
from sinks import staging
from sinks.erased_ids import without_person
from sinks.message_conflicts import Stored, sort_out
from sinks.months import MAKE_MONTHS
from sinks.postgres_sink import Copied, Offsets, PostgresSink, erased_among, nothing, stage
from sinks.sink_errors import Unavailable, sentence
from sinks.staging import MembersRow, Staging

log = structlog.get_logger(__name__)
_MONTHS_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class ArchiveBatch:
    """The rows of one transaction, those of each partition in the order of their topics."""

    messages: Sequence[SequencedMessage] = ()
    states: Sequence[DeliveryState] = ()
    cursors: Sequence[Cursor] = ()
    members: Sequence[MembersRow] = ()

    def without_old(self, retention: Retention, now: float) -> "ArchiveBatch":
        """The batch without messages and transitions that retention would delete at once. `now` is Unix time in seconds."""
        if not retention:
            return self
        return ArchiveBatch(
            [each for each in self.messages if retention.keeps(each.tenant_id, each.accepted_at, now)],
            [each for each in self.states if retention.keeps(each.tenant_id, each.accepted_at, now)],
            self.cursors,
            self.members,
        )


class PostgresArchive(PostgresSink):
    """The sink of the stage archive. `retention` says which rows are too old to be stored.

    `conflicts` counts messages that contradict a stored one and were stored in `message_conflicts` instead; it stays 0 unless something
    upstream is wrong. `reused` counts messages whose id the same tenant used before in another conversation; they are stored as
    messages of their own, but the application may have made a mistake. `too_old` counts rows that retention would delete at once, and
    that were not stored. All count since the start of the process.
    """

    staged: ClassVar[tuple[Staging, ...]] = (staging.MESSAGES, staging.STATES, staging.CURSORS, staging.MEMBERS)

    def __init__(self, url: str, *, sink: str = "archive", retention: Retention = KEEP_ALL) -> None:
        super().__init__(url, sink=sink)
        self.conflicts = 0
        self.reused = 0
        self.too_old = 0
        self._retention = retention
        self._months_at: float | None = None  # when the months were last looked at; time.monotonic()

    async def open(self) -> None:
        """Connects, and makes the partitions of this month and the next two. Raises Unavailable or NotMigrated."""
        await super().open()
        async with self._turn:
            await self.prepare()

    async def write(
        self,
        *,
        messages: Sequence[SequencedMessage],
        states: Sequence[DeliveryState],
        cursors: Sequence[Cursor] = (),
        members: Sequence[MembersRow] = (),
        offsets: Offsets,
        sent: Callable[[], None] = nothing,
    ) -> None:
        """Stores the rows in one transaction. Of `members`, a conversation has one at most. See `commit`."""
        await self.commit(ArchiveBatch(messages, states, cursors, members), offsets, sent)

    async def prepare(self) -> None:
        """Makes the partitions of the coming months, at most once an hour. That may wait: a failure is logged, and tried again later."""
        if self._months_at is not None and time.monotonic() < self._months_at + _MONTHS_SECONDS:
            return
        try:
            async with self._transaction() as connection:
                await connection.execute("set local lock_timeout = '2s'")
                await connection.execute(MAKE_MONTHS)
        except (Unavailable, psycopg.Error) as error:
            if self._connection is None or self._connection.closed:
                raise
            log.warning(
                "no partitions made for the coming months", error=sentence(error), again_in_seconds=_MONTHS_SECONDS
            )
        self._months_at = time.monotonic()

    async def copy(self, connection: AsyncConnection, batch: Any) -> Copied:
        given: ArchiveBatch = batch
        kept = given.without_old(self._retention, time.time())
        counts = Counter(
            too_old=len(given.messages) + len(given.states) - len(kept.messages) - len(kept.states),
        )
        everything = (*kept.messages, *kept.states, *kept.cursors, *kept.members)
        if not everything:
            return Copied((), counts)
        blank = partial(without_person, erased=await erased_among(connection, everything))
        merges: list[tuple[str, Sequence[Any]]] = []
        if kept.messages:
            merges += await self._copy_messages(connection, [blank(each) for each in kept.messages], counts)
        if kept.states:
            await stage(connection, staging.STATES, [blank(each) for each in kept.states])
            merges += [(staging.MERGE_EVENTS, ()), (staging.MERGE_DELIVERIES, ()), (staging.ADD_RECIPIENTS, ())]
        if kept.cursors:
            await stage(connection, staging.CURSORS, [blank(each) for each in kept.cursors])
            merges.append((staging.MERGE_CURSORS, ()))
        if kept.members:
            await stage(connection, staging.MEMBERS, [blank(each) for each in kept.members])
            merges += [(staging.FORGET_MEMBERS, ()), (staging.MERGE_MEMBERS, ())]
        return Copied(merges, counts)

    async def _copy_messages(
        self, connection: AsyncConnection, messages: Sequence[SequencedMessage], counts: Counter[str]
    ) -> list[tuple[str, Sequence[Any]]]:
        """Copies the messages, sets those aside that contradict stored ones, and counts them; returns the merges of the others."""
        await stage(connection, staging.MESSAGES, messages)
        stored = await connection.execute(staging.FIND_STORED)
        found = sort_out(messages, [Stored(*row) for row in await stored.fetchall()])
        counts["reused"] += found.reused
        if found.conflicts:
            counts["conflicts"] += (await connection.execute(staging.KEEP_CONFLICTS, (found.conflicts,))).rowcount
        merges: list[tuple[str, Sequence[Any]]] = []
        if len(found.conflicts) + len(found.replays) < len(messages):
            merges.append((staging.MERGE_MESSAGES, ([*found.conflicts, *found.replays],)))
        return [*merges, (staging.MERGE_CONVERSATIONS, (found.conflicts,)), (staging.ADD_SENDERS, ())]

    def count(self, counted: Counter[str]) -> None:
        self.conflicts += counted["conflicts"]
        self.reused += counted["reused"]
        self.too_old += counted["too_old"]
