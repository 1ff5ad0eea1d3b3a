"""What the sinks of PostgreSQL have in common: one connection, transactions that move offsets, and commits whose answer was lost.

Enters: a batch of a sink and the offset that each partition reaches. Leaves: one transaction per batch. Guaranteed: exactly-once. The
offsets move in the same transaction as the rows, and only from the expected old values. So any partitions may be written together, and a
repeated batch may combine them differently.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, NamedTuple, cast

import psycopg
from psycopg import AsyncConnection, conninfo

from schemas import access_errors
from sinks.erased_ids import all_digests_of
from sinks.erased_people import FIND_ERASED, IS_ANYBODY_ERASED, Erased
from sinks.sink_errors import NotMigrated, SinkFenced, Unavailable, sentence
from sinks.staging import Staging

Partition = tuple[str, int]  # topic, partition
Offsets = Mapping[Partition, tuple[int, int]]  # partition -> (expected, next)

LOCK_SECONDS = 30


def nothing() -> None:
    """What `sent` is where no other work waits for it."""


class Copied(NamedTuple):
    """What remains of a transaction when its rows are copied: the statements that merge them, each with its parameters, and the value that
    `count` gets after the commit."""

    merges: Sequence[tuple[str, Sequence[Any]]]
    counted: Any = None


# A server whose machine is gone answers nothing: without these, a connection to it would wait for hours.
_TIMEOUTS = {
    "connect_timeout": "10",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "40000",
}

_ADVANCE = """
    update sink_offsets o set next_offset = a.next_offset, updated_at = now()
      from unnest(%s::text[], %s::int[], %s::bigint[], %s::bigint[]) as a (topic, partition, expected, next_offset)
     where o.sink = %s and o.topic = a.topic and o.partition = a.partition and o.next_offset = a.expected
"""


class PostgresSink(ABC):
    """One connection, one transaction at a time, shared by all partitions of a worker. A subclass says what its rows are.

    All methods are coroutines of one event loop and never block it. Calls from several tasks wait for each other, in order. Use one
    instance for one `sink` name in a process, and do not use it from another thread or loop.

    Transactions: `positions` and each `commit` are one transaction each. After an exception, the whole of it is rolled back, except that a
    commit whose answer was lost may have been done; the next call with the same offsets finds out and does not write twice.

    Rebalance: a worker that gets a partition calls `positions`, which waits until the former owner's running transaction has ended. After
    the first `commit` of the new owner, each `commit` of the former owner with that partition raises SinkFenced. A worker need not do
    anything for a partition that it loses.

    Raises: Unavailable when PostgreSQL cannot be reached or cannot serve now; repeat the same call later. SinkFenced from `commit` only.
    NotMigrated from any call that must connect, when the relations are missing.
    """

    staged: ClassVar[tuple[Staging, ...]]  # the temporary relations of the connection

    def __init__(self, url: str, *, sink: str) -> None:
        self._url = url
        self._sink = sink
        self._connection: AsyncConnection | None = None
        self._turn = asyncio.Lock()
        self._doubtful: dict[Partition, tuple[int, int]] = {}  # commits without an answer: perhaps done

    @abstractmethod
    async def copy(self, connection: AsyncConnection, batch: Any) -> Copied:
        """Copies the rows of a batch to the server, within the transaction, and asks what it has to; returns what remains to be done."""

    def count(self, counted: Any) -> None:  # noqa: B027  # a sink need not count
        """Called after each commit with what `copy` returned as `counted`."""

    async def prepare(self) -> None:  # noqa: B027  # the default has nothing to do
        """Called before each transaction of a batch, outside it. Raises Unavailable only when there is no connection."""

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
            await connection.execute("set local lock_timeout = 0")
            await connection.execute(
                "insert into sink_offsets (sink, topic, partition, next_offset)"
                " select %s, t, p, 0 from unnest(%s::text[], %s::int[]) as a (t, p) on conflict do nothing",
                (self._sink, topics, numbers),
            )
            return await self._held(connection, wanted)

    async def commit(self, batch: Any, offsets: Offsets, sent: Callable[[], None] = nothing) -> None:
        """One transaction: stores the batch, and moves each partition of `offsets` from its expected offset to its next one.

        `offsets` is partition -> (expected, next). The expected offset is the one that `positions` returned, later the `next` of the
        previous commit. The batch may be empty: then only the offsets move. Returns after the commit. `sent` is called once everything
        is at the server, which has most of its work still before it: a good moment for other work. Not called if that fails; perhaps
        called twice.

        Raises SinkFenced when a partition is not at its expected offset: another worker writes it, and this one must stop. Raises
        Unavailable when PostgreSQL did not take the batch: repeat the same call. Raises ValueError when a `next` is lower than its
        expected offset.
        """
        _check(offsets)
        async with self._turn:
            try:
                await self._commit(batch, offsets, sent)
            except Unavailable:
                if self._connection is not None and not self._connection.closed:
                    raise  # PostgreSQL itself refused (disk, deadlock); the stage decides when to retry
                await self._commit(batch, offsets, sent)  # one retry, on a new connection

    async def close(self) -> None:
        """Closes the connection; PostgreSQL rolls an unfinished transaction back. The next call connects again."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _connect(self) -> None:
        await self.close()
        try:
            self._connection = await AsyncConnection.connect(with_timeouts(self._url), autocommit=True)
            # A lock that somebody holds for long then shows as Unavailable, in the log, instead of a write that never ends.
            await self._connection.execute(f"set lock_timeout = '{LOCK_SECONDS}s'".encode())
            for relation in self.staged:
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

    async def _commit(self, batch: Any, offsets: Offsets, sent: Callable[[], None]) -> None:
        """Writes the batch, unless it is the batch (or a part of the batch) whose answer was lost and which PostgreSQL did commit."""
        in_doubt = bool(offsets) and offsets.items() <= self._doubtful.items()
        if not in_doubt or not await self._already_written(offsets):
            self._doubtful = {**self._doubtful, **offsets}
            try:
                counted = await self._write(batch, offsets, sent)
            except SinkFenced:
                self._forget(offsets)
                raise
            self.count(counted)
        self._forget(offsets)

    def _forget(self, offsets: Offsets) -> None:
        """The outcome of these commits is known."""
        self._doubtful = {source: span for source, span in self._doubtful.items() if source not in offsets}

    async def _write(self, batch: Any, offsets: Offsets, sent: Callable[[], None]) -> Any:
        await self.prepare()
        async with self._transaction() as connection:
            # First, because it locks the rows: a fenced writer stops before it has done any work.
            await self._advance(connection, offsets)
            copied = await self.copy(connection, batch)
            if copied.merges:
                # In a pipeline no statement waits for the answer to the one before: the server is busy while this process does other work.
                async with connection.pipeline():
                    for merge, parameters in copied.merges:
                        await connection.execute(merge.encode(), parameters)
                    sent()
        return copied.counted

    async def _advance(self, connection: AsyncConnection, offsets: Offsets) -> None:
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

    async def _already_written(self, offsets: Offsets) -> bool:
        """Whether PostgreSQL did the commit whose answer was lost with the connection."""
        async with self._transaction() as connection:
            held = await self._held(connection, list(offsets))
        return all(held.get(partition) == following for partition, (_, following) in offsets.items())


def with_timeouts(url: str) -> str:
    """The URL with our timeouts, except for those that it has itself. Raises psycopg.ProgrammingError for a URL that cannot be parsed."""
    given = conninfo.conninfo_to_dict(url)
    return conninfo.make_conninfo(url, **{name: value for name, value in _TIMEOUTS.items() if name not in given})


async def erased_among(connection: AsyncConnection, records: Iterable[Any]) -> Erased:
    """The erased people whom the records name; one short query while nobody was ever erased. Call it after the offsets have moved: see
    sinks/erased_people.py."""
    found = await (await connection.execute(IS_ANYBODY_ERASED)).fetchone()
    if not found or not found[0]:
        return Erased({})
    people = sorted({(record.tenant_id, digest) for record in records for digest in all_digests_of(record)})
    rows = await connection.execute(FIND_ERASED, ([tenant for tenant, _ in people], [digest for _, digest in people]))
    return Erased({(tenant, digest): at async for tenant, digest, at in rows})


async def stage(connection: AsyncConnection, relation: Staging, records: Iterable[object]) -> None:
    """Copies records into their temporary relation, which is empty until then."""
    async with connection.cursor() as cursor, cursor.copy(relation.copy.encode()) as copy:
        copy.set_types(relation.types)
        for row in relation.rows(records):
            await copy.write_row(row)


def _check(offsets: Offsets) -> None:
    for (topic, number), (expected, following) in offsets.items():
        if following < expected:
            raise ValueError(f"{topic}[{number}]: a position never goes back, from {expected} to {following}")
