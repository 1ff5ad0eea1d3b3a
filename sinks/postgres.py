"""The archive: messages, deliveries and every transition in PostgreSQL.

Enters: batches of records, of one or several partitions, and the offset that each partition reaches. Leaves: one transaction per batch.
Guaranteed: exactly-once. The offsets move in the same transaction as the rows, and only from the expected old values; merging a batch
again changes nothing. So any partitions may be written together, and a repeated batch may combine them differently.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import cast

import psycopg
from psycopg import AsyncConnection

from schemas import access_errors
from schemas.records import Cursor, DeliveryState, SequencedMessage
from sinks import staging
from sinks.sink_errors import NotMigrated, SinkFenced, Unavailable, sentence
from sinks.staging import Staging

Partition = tuple[str, int]  # topic, partition

_ADVANCE = """
    update sink_offsets o set next_offset = a.next_offset, updated_at = now()
      from unnest(%s::text[], %s::int[], %s::bigint[], %s::bigint[]) as a (topic, partition, expected, next_offset)
     where o.sink = %s and o.topic = a.topic and o.partition = a.partition and o.next_offset = a.expected
"""


class PostgresArchive:
    """The sink of the stage archive: one connection, one transaction at a time, shared by all partitions of a worker.

    All methods are coroutines of one event loop and never block it. Calls from several tasks wait for each other, in order. Use one
    instance for one `sink` name in a process, and do not use it from another thread or loop.

    Transactions: `positions` and each `write` are one transaction each. After an exception, the whole of it is rolled back, except that a
    commit whose answer was lost may have been done; the next call with the same offsets finds out and does not write twice.

    Rebalance: a worker that gets a partition calls `positions`, which waits until the former owner's running transaction has ended. After
    the first `write` of the new owner, each `write` of the former owner with that partition raises SinkFenced. A worker need not do
    anything for a partition that it loses.

    Raises: Unavailable when PostgreSQL cannot be reached or cannot serve now; repeat the same call later. SinkFenced from `write` only.
    NotMigrated from any call that must connect, when the relations are missing.

    `conflicts` counts messages that broke a key of `messages` and were stored in `message_conflicts` instead; it stays 0 unless something
    upstream is wrong. `reused` counts messages whose id the same tenant used before in another conversation; they are stored as
    messages of their own, but the application may have made a mistake. Both count since the start of the process.
    """

    def __init__(self, url: str, *, sink: str = "archive") -> None:
        self.conflicts = 0
        self.reused = 0
        self._url = url
        self._sink = sink
        self._connection: AsyncConnection | None = None
        self._turn = asyncio.Lock()
        self._doubtful: dict[Partition, tuple[int, int]] = {}  # commits without an answer: perhaps done

    async def open(self) -> None:
        """Connects, or connects again. Waits at most 10 s for the connection. Raises Unavailable or NotMigrated. Calling it is optional:
        every other method connects when it has to."""
        async with self._turn:
            await self._connect()

    async def positions(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The next offset to write of each partition: where the worker must seek to, and what its first `write` must expect.

        A partition that is new to the sink gets its row here, with offset 0; so `write` always finds a row. Waits until a running
        transaction of the partition's former owner has ended. One transaction. Raises Unavailable or NotMigrated.
        """
        wanted = sorted(set(partitions))
        topics, numbers = [topic for topic, _ in wanted], [number for _, number in wanted]
        async with self._turn, self._transaction() as connection:
            await connection.execute(
                "insert into sink_offsets (sink, topic, partition, next_offset)"
                " select %s, t, p, 0 from unnest(%s::text[], %s::int[]) as a (t, p) on conflict do nothing",
                (self._sink, topics, numbers),
            )
            return await self._held(connection, wanted)

    async def write(
        self,
        *,
        messages: Sequence[SequencedMessage],
        states: Sequence[DeliveryState],
        cursors: Sequence[Cursor] = (),
        offsets: Mapping[Partition, tuple[int, int]],
    ) -> None:
        """One transaction: stores the rows, and moves each partition of `offsets` from its expected offset to its next one.

        `offsets` is partition -> (expected, next). The expected offset is the one that `positions` returned, later the `next` of the
        previous write. The rows may be empty: then only the offsets move. Returns after the commit.

        Raises SinkFenced when a partition is not at its expected offset: another worker writes it, and this one must stop. Raises
        Unavailable when PostgreSQL did not take the batch: repeat the same call. Raises ValueError when a `next` is lower than its
        expected offset.
        """
        _check(offsets)
        async with self._turn:
            try:
                await self._commit(messages, states, cursors, offsets)
            except Unavailable:
                if self._connection is not None and not self._connection.closed:
                    raise  # PostgreSQL itself refused (disk, deadlock); the stage decides when to retry
                await self._commit(messages, states, cursors, offsets)  # one retry, on a new connection

    async def close(self) -> None:
        """Closes the connection; PostgreSQL rolls an unfinished transaction back. The next call connects again."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _connect(self) -> None:
        await self.close()
        try:
            self._connection = await AsyncConnection.connect(self._url, autocommit=True, connect_timeout=10)
            for relation in (staging.MESSAGES, staging.STATES, staging.CURSORS):
                await self._connection.execute(relation.create)
            await self._connection.execute("select from sink_offsets limit 0")
        except psycopg.errors.UndefinedTable as error:
            await self.close()
            raise NotMigrated(
                f"PostgreSQL lacks our relations, run `python -m sinks.migrate`: {sentence(error)}"
            ) from error
        except psycopg.OperationalError as error:
            await self.close()
            raise Unavailable(
                await asyncio.to_thread(
                    access_errors.access_error, access_errors.of_url("PostgreSQL", self._url), error
                )
            ) from error

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        if self._connection is None or self._connection.closed:
            await self._connect()
        connection = cast("AsyncConnection", self._connection)
        try:
            async with connection.transaction():
                yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise Unavailable(f"PostgreSQL did not take the batch: {sentence(error)}") from error

    async def _commit(
        self,
        messages: Sequence[SequencedMessage],
        states: Sequence[DeliveryState],
        cursors: Sequence[Cursor],
        offsets: Mapping[Partition, tuple[int, int]],
    ) -> None:
        """Writes the batch, unless it is the batch (or a part of the batch) whose answer was lost and which PostgreSQL did commit."""
        in_doubt = bool(offsets) and offsets.items() <= self._doubtful.items()
        if not in_doubt or not await self._already_written(offsets):
            self._doubtful = {**self._doubtful, **offsets}
            try:
                conflicts, reused = await self._write(messages, states, cursors, offsets)
            except SinkFenced:
                self._forget(offsets)
                raise
            self.conflicts += conflicts
            self.reused += reused
        self._forget(offsets)

    def _forget(self, offsets: Mapping[Partition, tuple[int, int]]) -> None:
        """The outcome of these commits is known."""
        self._doubtful = {source: span for source, span in self._doubtful.items() if source not in offsets}

    async def _write(
        self,
        messages: Sequence[SequencedMessage],
        states: Sequence[DeliveryState],
        cursors: Sequence[Cursor],
        offsets: Mapping[Partition, tuple[int, int]],
    ) -> tuple[int, int]:
        """Returns how many messages were stored as conflicts, and how many reuse an id."""
        conflicts = reused = 0
        async with self._transaction() as connection:
            # First, because it locks the rows: a fenced writer stops before it has done any work.
            await self._advance(connection, offsets)
            if messages:
                await _stage(connection, staging.MESSAGES, messages)
                merged = await connection.execute(staging.MERGE_MESSAGES)
                added, reused = await merged.fetchone() or (0, 0)
                if added < len(messages):
                    conflicts = (await connection.execute(staging.KEEP_CONFLICTS)).rowcount
            if states:
                await _stage(connection, staging.STATES, states)
                await connection.execute(staging.MERGE_EVENTS)
                await connection.execute(staging.MERGE_DELIVERIES)
            if cursors:
                await _stage(connection, staging.CURSORS, cursors)
                await connection.execute(staging.MERGE_CURSORS)
        return conflicts, reused

    async def _advance(self, connection: AsyncConnection, offsets: Mapping[Partition, tuple[int, int]]) -> None:
        rows = [(topic, number, *span) for (topic, number), span in sorted(offsets.items())]
        columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
        moved = await connection.execute(_ADVANCE, (*columns, self._sink))
        if moved.rowcount == len(rows):
            return
        held = await self._held(connection, list(offsets))
        for partition, (expected, _) in sorted(offsets.items()):
            if held.get(partition) != expected:
                raise SinkFenced(
                    f"PostgreSQL has {self._sink} of {partition[0]}[{partition[1]}] at {held.get(partition, 'no position')}, not at "
                    f"{expected}: another worker writes this partition"
                )

    async def _held(self, connection: AsyncConnection, partitions: Sequence[Partition]) -> dict[Partition, int]:
        # `for update` waits for a commit that is still running in another session.
        found = await connection.execute(
            "select topic, partition, next_offset from sink_offsets where sink = %s"
            " and (topic, partition) in (select * from unnest(%s::text[], %s::int[])) order by topic, partition for update",
            (self._sink, [topic for topic, _ in partitions], [number for _, number in partitions]),
        )
        return {(topic, number): offset async for topic, number, offset in found}

    async def _already_written(self, offsets: Mapping[Partition, tuple[int, int]]) -> bool:
        """Whether PostgreSQL did the commit whose answer was lost with the connection."""
        async with self._transaction() as connection:
            held = await self._held(connection, list(offsets))
        return all(held.get(partition) == following for partition, (_, following) in offsets.items())


async def _stage(connection: AsyncConnection, relation: Staging, records: Sequence[object]) -> None:
    async with connection.cursor() as cursor, cursor.copy(relation.copy.encode()) as copy:
        copy.set_types(relation.types)
        for row in relation.rows(records):
            await copy.write_row(row)


def _check(offsets: Mapping[Partition, tuple[int, int]]) -> None:
    for (topic, number), (expected, following) in offsets.items():
        if following < expected:
            raise ValueError(f"{topic}[{number}]: a position never goes back, from {expected} to {following}")
