"""The facts: every transition of every delivery in ClickHouse.

Enters: a planned batch of delivery states and its token. Leaves: one INSERT of columns into `delivery_events`; materialized views make
`deliveries` and the roll-ups of it. Exactly-once for the caller's part: the same batch with the same token, inserted again within the
relation's window of 10,000 tokens, changes neither the facts nor the views' targets. No text and no address enters ClickHouse.
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

# Column and type, as in ddl/clickhouse/0001_facts.sql; told to the client, so that no insert begins with a DESCRIBE.
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
}

# The token makes a repeated insert a no-op in the facts, the second setting in the views' targets. Asynchronous inserts would answer
# before the block is written. A batch may touch any number of months.
_SETTINGS = {
    "async_insert": 0,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "max_partitions_per_insert_block": 0,
}

# Names of ClickHouse's errors that pass by themselves.
_FOR_NOW = {
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
    """One HTTP client, used by one insert at a time, in a thread. All inserts go through one context of the client: each context
    refers to itself, and one for each insert would keep every batch until Python next looks for cycles."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Client | None = None
        self._context: InsertContext | None = None
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """Connects; raises Unavailable, or NotMigrated when the relations are missing."""
        async with self._turn:
            await asyncio.to_thread(self._open)

    async def insert(self, token: str, states: Sequence[DeliveryState]) -> None:
        """One batch, whole or not at all; `token` names exactly these states in this order. Raises Unavailable: insert it again."""
        if not states:
            return
        async with self._turn:
            await asyncio.to_thread(self._insert, token, states)

    async def close(self) -> None:
        """Closes the client's connections."""
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
            context.data = [[] for _ in COLUMNS]  # None would leave the last batch in it


def columns(states: Sequence[DeliveryState]) -> list[list[Any]]:
    """The states as ClickHouse's columns, in the order of COLUMNS; equal states give equal columns."""
    return [_column(list(map(attrgetter(name), states)), type_) for name, type_ in COLUMNS.items()]


def _column(values: list[Any], type_: str) -> list[Any]:
    if type_ == _TIME:
        return list(map(held, values))
    if type_ == _MAYBE:
        return [None if at is None else held(at) for at in values]
    if type_ == _WORD:
        return [value or "" for value in values]
    return values


def connect(url: str) -> Client:
    """A client of the server and database the URL names; raises Unavailable."""
    try:
        # Its client does not look at the scheme of a URL. No session: sessions lock, and a worker shares the client among its partitions.
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
        # a database that is not there
        raise Unavailable(f"ClickHouse lets nobody in (CHAT4ALL_CLICKHOUSE_URL): {sentence(error)}") from error


def answered(request: Callable[[], T]) -> T:
    """The answer of one request to ClickHouse; its errors as NotMigrated and Unavailable."""
    try:
        return request()
    except DatabaseError as error:
        if error.name == "UNKNOWN_TABLE":
            raise NotMigrated(
                f"ClickHouse lacks our relations, run `python -m sinks.migrate`: {sentence(error)}"
            ) from error
        # Without a name it is no answer of ClickHouse: no connection, or a proxy's page. Subclasses are the client's own complaints.
        is_silence = error.name is None and type(error) in (DatabaseError, OperationalError)
        if is_silence or error.name in _FOR_NOW:
            raise Unavailable(f"ClickHouse cannot serve now (CHAT4ALL_CLICKHOUSE_URL): {sentence(error)}") from error
        raise
