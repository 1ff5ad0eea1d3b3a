"""The facts: every transition of every delivery in ClickHouse.

Enters: a planned batch of delivery states and its token. Leaves: one INSERT of columns into `delivery_events`; materialized views fill
`deliveries` and the hourly totals from it. Guaranteed: inserting the same batch with the same token again changes neither the facts nor
the targets of the views, as long as at most 10,000 other tokens were inserted in between. No text and no address enters ClickHouse.
"""

import asyncio
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, TypeVar
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError
from clickhouse_connect.driver.insert import InsertContext

from schemas import access_errors
from schemas.records import DeliveryState
from sinks.sink_errors import NotMigrated, Unavailable, sentence
from sinks.storable_text import held

T = TypeVar("T")

_WORD = "LowCardinality(String)"
_TIME = "DateTime64(3, 'UTC')"  # takes our milliseconds as they are
_MAYBE = f"Nullable({_TIME})"

# Column and type, as in ddl/clickhouse/0006_daily.sql. The client gets them, so that it need not send a DESCRIBE
# before each insert.
COLUMNS: dict[str, str] = {
    "tenant_id": _WORD,
    "delivery_id": "String",
    "message_id": "String",
    "conversation_id": "String",
    "home_partition": "Int32",
    "seq": "Int64",
    "channel": _WORD,
    "account": _WORD,
    "version": "Int32",
    "previous_status": _WORD,
    "status": _WORD,
    "cause": _WORD,
    "anomaly": _WORD,
    "occurred_at": _TIME,
    "observed_at": _TIME,
    "requested_at": _TIME,
    "accepted_at": _TIME,
    "dispatched_at": _MAYBE,
    "sent_at": _MAYBE,
    "delivered_at": _MAYBE,
    "read_at": _MAYBE,
    "failed_at": _MAYBE,
    "delivered_implied": "Bool",
    "attempts": "Int32",
    "resends": "Int32",
    "reason_code": _WORD,
    "stalled_at": _MAYBE,
    "kind": _WORD,
    "attempt": "Int32",
    "reported": _WORD,
    "throttled": "Bool",
    "retry_at": _MAYBE,
    "throttles": "Int32",
    "not_before": _MAYBE,
    "ready_at": _MAYBE,
    "first_dispatched_at": _MAYBE,
    "fallback_of": "String",
}

# The token makes a repeated insert a no-op in the facts; the second setting does so in the targets of the views. An asynchronous insert
# would answer before the block is written. A batch may touch any number of months.
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

    Transactions: ClickHouse has none. An `insert` is one block, stored whole or not at all. After Unavailable it may have been stored;
    repeating it with the same token and the same states is harmless, and is the only right way to continue.

    Rebalance: ClickHouse does not fence a former owner. Both owners take their batches and tokens from the plans in Kafka, so that they
    insert identical blocks, of which ClickHouse keeps one.

    Raises: Unavailable when ClickHouse cannot be reached or cannot serve now. NotMigrated when the relations are missing. Any other
    DatabaseError of the client is a bug, and passes through.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Client | None = None
        # One context for all inserts. A context refers to itself: with one per insert, every batch would stay until the garbage
        # collector runs.
        self._context: InsertContext | None = None
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """Connects, unless it is connected. Raises Unavailable or NotMigrated. Calling it is optional: `insert` connects when it has to."""
        async with self._turn:
            await asyncio.to_thread(self._open)

    async def insert(self, token: str, states: Sequence[DeliveryState]) -> None:
        """Stores one batch, whole or not at all, and returns when ClickHouse has it. `token` names exactly these states in this order.
        No states: does nothing. Raises Unavailable: insert the same batch with the same token again. Raises NotMigrated."""
        if not states:
            return
        async with self._turn:
            await asyncio.to_thread(self._insert, token, states)

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

    def _insert(self, token: str, states: Sequence[DeliveryState]) -> None:
        client = self._open()
        if self._context is None:
            self._context = client.create_insert_context(
                "delivery_events",
                column_names=list(COLUMNS),
                column_type_names=list(COLUMNS.values()),
                column_oriented=True,
            )
        context = self._context
        context.settings = {**_SETTINGS, "insert_deduplication_token": token}
        try:
            answered(lambda: client.insert(data=columns(states), context=context))
        finally:
            context.data = [[] for _ in COLUMNS]  # frees the batch; None would keep it


def columns(states: Sequence[DeliveryState]) -> list[list[Any]]:
    """The states as ClickHouse's columns: one list per column, in the order of COLUMNS. Equal states give equal columns."""
    return [_column(list(map(attrgetter(name), states)), type_) for name, type_ in COLUMNS.items()]


def _column(values: list[Any], type_: str) -> list[Any]:
    if type_ == _TIME:
        return list(map(held, values))
    if type_ == _MAYBE:
        return [None if at is None else held(at) for at in values]
    if type_ in {_WORD, "String"}:
        return [value or "" for value in values]
    return values


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
