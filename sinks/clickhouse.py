"""The facts in ClickHouse: what was accepted, every transition of every delivery, what people wrote, every dead letter.

Enters: a planned batch of rows and its token. Leaves: one INSERT of columns into one relation; materialized views fill `deliveries`,
`attempts` and the roll-ups from it. Guaranteed: inserting the same batch with the same token again changes neither the facts nor the
targets of the views, within ClickHouse's deduplication window; `insert_again` keeps the facts right beyond it (docs/decisions/0038). No
text and no address enters ClickHouse.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import clickhouse_connect
import structlog
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError
from clickhouse_connect.driver.insert import InsertContext

from schemas import access_errors
from schemas.records import DeadLetter
from sinks.fact_repeats import Repeat, find_repeat, rows_missing
from sinks.fact_tables import DEAD_LETTERS, EVENTS, FactTable, batch_of, columns, refused
from sinks.sink_errors import NotMigrated, Unavailable, sentence

log = structlog.get_logger(__name__)
T = TypeVar("T")

COLUMNS = EVENTS.columns
LOST_SECONDS = 2.0
MOST_LOST = (
    5  # times that rows are inserted which ClickHouse has lost; `chat4all check` names what is still missing then
)

# The token makes a repeated insert a no-op in the facts; the second setting does so in the targets of the views. An asynchronous insert
# would answer before the block is written. A batch may touch any number of days.
_SETTINGS = {
    "async_insert": 0,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "max_partitions_per_insert_block": 0,
}

# Names of ClickHouse's temporary errors.
_TEMPORARY = {
    "CANNOT_SCHEDULE_TASK",
    "KEEPER_EXCEPTION",
    "MEMORY_LIMIT_EXCEEDED",
    "NOT_ENOUGH_SPACE",
    "TABLE_IS_READ_ONLY",
    "TIMEOUT_EXCEEDED",
    "TOO_MANY_PARTS",
    "TOO_MANY_SIMULTANEOUS_QUERIES",
}


class ClickHouseFacts:
    """The sink of the stage analyse: one HTTP client, one request at a time, shared by all partitions of a worker.

    All methods are coroutines of one event loop and do not block it: the requests run in threads of asyncio's default executor. Calls
    from several tasks wait for each other, in order. Do not use an instance from another thread or loop.

    Transactions: ClickHouse has none. Of an insert, the rows of one day are stored whole or not at all; then the views' targets follow.
    After Unavailable any of it may have been stored; `insert_again` with the same token and rows is the only right way to continue.

    Rebalance: ClickHouse does not fence a former owner. Both owners take their batches and tokens from the plans in Kafka, so that they
    insert identical blocks, of which ClickHouse keeps one.

    Raises: Unavailable when ClickHouse cannot be reached or cannot serve now. NotMigrated when the relations are missing. Any other
    DatabaseError of the client is a bug, and passes through.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Client | None = None
        # One context for all inserts of a relation. A context refers to itself: with one per insert, every batch would stay until the
        # garbage collector runs.
        self._contexts: dict[str, InsertContext] = {}
        # Token of a batch -> what is missing of it, and when `insert_again` found that (Unix milliseconds), until it is stored. So a retry
        # completes the views' targets too.
        self._completing: dict[str, tuple[Repeat, int]] = {}
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """Connects, unless it is connected. Raises Unavailable or NotMigrated. Calling it is optional: `insert` connects when it has to."""
        async with self._turn:
            await asyncio.to_thread(self._open)

    async def insert(self, token: str, rows: Sequence[Any], table: FactTable = EVENTS) -> None:
        """Stores one batch and returns when ClickHouse has it: rows of one day whole or not at all. `token` names exactly these rows in
        this order; rows are DeliveryState, or what the functions of sinks/fact_tables.py return. No rows: does nothing. Raises
        Unavailable: call `insert_again` with the same batch. Raises NotMigrated."""
        if rows:
            async with self._turn:
                await asyncio.to_thread(self._insert, table, token, rows, batch_of(token))

    async def insert_again(self, token: str, rows: Sequence[Any], planned_at: int, table: FactTable = EVENTS) -> None:
        """Stores what is missing of a batch that may be stored already, also when ClickHouse has forgotten its token. `planned_at` is
        when the batch was planned, before its first insert, in Unix milliseconds; 0 when that is not known, as in the plans of former
        releases, whose rows have no batch. Otherwise as `insert`."""
        if rows:
            async with self._turn:
                await asyncio.to_thread(self._insert_again, table, token, rows, planned_at)

    async def insert_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Stores one row for each dead letter, without its bytes and detail. The same letters again, in the same or other batches, are no
        new rows once ClickHouse has merged them: read with FINAL. No letters: does nothing. Raises Unavailable: call it again. Raises
        NotMigrated."""
        if letters:
            names = "\n".join(letter.dead_letter_id for letter in letters)
            token = f"dead-letters-{hashlib.sha256(names.encode(errors='surrogatepass')).hexdigest()}"
            await self.insert(token, list(map(refused, letters)), DEAD_LETTERS)

    def forget(self, token: str) -> None:
        """Gives up a batch that `insert_again` has not stored yet: the worker may have lost its partition. Never blocks."""
        self._completing.pop(token, None)

    async def close(self) -> None:
        """Closes the client's connections. The next call connects again."""
        client, self._client = self._client, None
        if client is not None:
            await asyncio.to_thread(client.close)

    def _open(self) -> Client:
        if self._client is None:
            client = connect(self._url)
            try:
                answered(lambda: client.query("select 1 from delivery_events limit 0"))
            except (NotMigrated, Unavailable):
                client.close()
                raise
            self._client = client
        return self._client

    def _insert(self, table: FactTable, token: str, rows: Sequence[Any], batch: int) -> None:
        client = self._open()
        if table.name not in self._contexts:
            self._contexts[table.name] = client.create_insert_context(
                table.name,
                column_names=list(table.columns),
                column_type_names=list(table.columns.values()),
                column_oriented=True,
            )
        context = self._contexts[table.name]
        # The client would send several blocks. As one, a batch is one entry under its token, whatever the server's settings are.
        context.req_block_size = len(rows)
        context.settings = {**_SETTINGS, "insert_deduplication_token": token}
        try:
            answered(lambda: client.insert(data=columns(table, rows, batch), context=context))
        finally:
            context.data = [[] for _ in table.columns]  # frees the batch; None would keep it

    def _insert_again(self, table: FactTable, token: str, rows: Sequence[Any], planned_at: int) -> None:
        # In a retry: what this worker has tried to insert last of the batch, with which token, and since when.
        tried, since = self._completing.get(token, (Repeat(token, rows), planned_at))
        client, batch = self._open(), batch_of(token)
        repeat = answered(lambda: find_repeat(client, table, batch, tried, since))
        if repeat is not tried:
            self._completing[token] = (repeat, int(time.time() * 1000))
        if repeat.rows:
            self._insert(table, repeat.token, repeat.rows, batch)
        self._insert_lost(table, token, rows, None if planned_at == 0 else [batch])
        self._completing.pop(token, None)

    def _insert_lost(self, table: FactTable, token: str, rows: Sequence[Any], batches: Sequence[int] | None) -> None:
        """Inserts what ClickHouse lost: it notes a token before it keeps the rows, and killed in between, it ignores the repetition."""
        client, batch = self._open(), batch_of(token)
        for number in range(MOST_LOST):
            if not answered(lambda: rows_missing(client, table, batches, rows)):
                return
            time.sleep(LOST_SECONDS)  # a former owner's insert of the same token may be about to end
            lost = answered(lambda: rows_missing(client, table, batches, rows))
            if lost:
                log.warning("ClickHouse has a token without its rows", relation=table.name, rows=len(lost))
                self._insert(table, f"{token}-lost-{number}", lost, batch)


def connect(url: str) -> Client:
    """A client for the server and database of the URL. Blocks until the server has answered, at most 10 s for the connection. Raises
    Unavailable. Close it with `close()`."""
    try:
        # The client ignores the scheme of a URL. No session: ClickHouse locks a session for each request.
        return answered(
            lambda: clickhouse_connect.get_client(
                dsn=url,
                interface=urlsplit(url).scheme or None,
                autogenerate_session_id=False,
                connect_timeout=10,
                send_receive_timeout=120,
            )
        )
    except (DatabaseError, Unavailable) as error:
        if known := access_errors.known(access_errors.of_url("ClickHouse", url), str(error)):
            raise Unavailable(known) from error
        if isinstance(error, Unavailable):
            raise
        # for example, the database does not exist
        raise Unavailable(f"ClickHouse refuses the connection (CHAT4ALL_CLICKHOUSE_URL): {sentence(error)}") from error


def answered(request: Callable[[], T]) -> T:
    """Runs one request to ClickHouse and returns its result. Blocks as the request does. Raises NotMigrated or Unavailable for the
    errors they stand for; other errors pass through."""
    try:
        return request()
    except DatabaseError as error:
        if error.name == "UNKNOWN_TABLE":
            raise NotMigrated(
                f"ClickHouse lacks our relations, run `python -m sinks.migrate`: {sentence(error)}"
            ) from error
        # An error without a name does not come from ClickHouse: no connection, or a proxy's page. Subclasses are errors of the client
        # itself.
        is_connection_error = error.name is None and type(error) in (DatabaseError, OperationalError)
        if is_connection_error or error.name in _TEMPORARY:
            raise Unavailable(f"ClickHouse cannot serve now (CHAT4ALL_CLICKHOUSE_URL): {sentence(error)}") from error
        raise
