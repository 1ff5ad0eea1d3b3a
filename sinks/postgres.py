"""The archive: messages, deliveries and every transition in PostgreSQL.

Enters: batches of records, of one partition or of several, and how far they reach in each. Leaves: one transaction per batch.
Exactly-once, whatever Kafka does: the positions move in the same transaction, only from the expected old values, and merging is harmless
to repeat. So it does not matter which partitions are written together, nor whether they are the same when it is done again.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import cast

import psycopg
from psycopg import AsyncConnection

from schemas import access_errors
from schemas.records import DeliveryState, SequencedMessage
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
    """One connection, one transaction at a time; safe to share among a worker's partitions.

    `conflicts` counts the messages that broke a key of `messages` and were set aside whole in `message_conflicts`: 0, unless
    something upstream is wrong. `reused` counts those whose id the same tenant had used in another conversation before: messages of
    their own, and perhaps a mistake of the application.
    """

    def __init__(self, url: str, *, sink: str = "archive") -> None:
        self.conflicts = 0
        self.reused = 0
        self._url = url
        self._sink = sink
        self._connection: AsyncConnection | None = None
        self._turn = asyncio.Lock()
        self._doubtful: dict[Partition, tuple[int, int]] = {}  # begun and not answered: perhaps committed

    async def open(self) -> None:
        """Connects; raises Unavailable, or NotMigrated when the relations are missing."""
        async with self._turn:
            await self._connect()

    async def positions(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The next offset to write of each partition: where to seek, and what the first `write` must expect.

        A partition met for the first time gets its row, at 0, here; so `write` never meets a missing row and needs no special case.
        Waits for a former owner's transaction that is still under way.
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
        offsets: Mapping[Partition, tuple[int, int]],
    ) -> None:
        """One transaction: the rows, and each partition moved from its expected offset to its next one.

        The expected offset is what `positions` told, later the `next` of the write before. Raises SinkFenced when a partition is not
        where expected, Unavailable when PostgreSQL is; then nothing was written and the same call may be repeated.
        """
        _check(offsets)
        async with self._turn:
            try:
                await self._commit(messages, states, offsets)
            except Unavailable:
                if self._connection is not None and not self._connection.closed:
                    raise  # PostgreSQL itself said why (disk, deadlock); the stage's patience decides
                await self._commit(messages, states, offsets)  # once more, on a new connection

    async def close(self) -> None:
        """Closes the connection; an unfinished transaction is undone."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _connect(self) -> None:
        await self.close()
        try:
            self._connection = await AsyncConnection.connect(self._url, autocommit=True, connect_timeout=10)
            for relation in (staging.MESSAGES, staging.STATES):
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
        offsets: Mapping[Partition, tuple[int, int]],
    ) -> None:
        """Writes the batch, unless it is the one whose answer got lost, or a part of it, and which was committed after all."""
        in_doubt = bool(offsets) and offsets.items() <= self._doubtful.items()
        if not in_doubt or not await self._already_written(offsets):
            self._doubtful = {**self._doubtful, **offsets}
            try:
                conflicts, reused = await self._write(messages, states, offsets)
            except SinkFenced:
                self._forget(offsets)
                raise
            self.conflicts += conflicts
            self.reused += reused
        self._forget(offsets)

    def _forget(self, offsets: Mapping[Partition, tuple[int, int]]) -> None:
        """What has become of these is known."""
        self._doubtful = {source: span for source, span in self._doubtful.items() if source not in offsets}

    async def _write(
        self,
        messages: Sequence[SequencedMessage],
        states: Sequence[DeliveryState],
        offsets: Mapping[Partition, tuple[int, int]],
    ) -> tuple[int, int]:
        """How many messages were set aside, and how many use an id again."""
        conflicts = reused = 0
        async with self._transaction() as connection:
            await self._advance(
                connection, offsets
            )  # first: it locks the rows, so a fenced writer stops before any work
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
        # Locked, so that a commit still under way in another session is waited for.
        found = await connection.execute(
            "select topic, partition, next_offset from sink_offsets where sink = %s"
            " and (topic, partition) in (select * from unnest(%s::text[], %s::int[])) order by topic, partition for update",
            (self._sink, [topic for topic, _ in partitions], [number for _, number in partitions]),
        )
        return {(topic, number): offset async for topic, number, offset in found}

    async def _already_written(self, offsets: Mapping[Partition, tuple[int, int]]) -> bool:
        """Whether the commit whose answer got lost with the connection was made after all."""
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
