"""One look at both databases for `chat4all check`: only reads, in streams of bounded size, with time limits.

Enters: the two URLs and a CheckedRange. Leaves: rows of queries. Guaranteed: everything that one Look reads of PostgreSQL is of one
moment (one read-only transaction, repeatable read); no row is locked; no query runs longer than the limit; a result is never in memory as
a whole. PostgreSQL keeps old row versions as long as a look lasts.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from schemas import access_errors
from schemas.records import SIGNALS
from sinks.clickhouse import answered, connect
from sinks.sink_errors import NotMigrated, Unavailable, sentence
from sinks.storable_text import EARLIEST, KEY_BYTES, LATEST

FETCHED_ROWS = 5000
HOUR_MS = 3_600_000
_DAY_MS = 24 * HOUR_MS
_TTL = re.compile(r"TTL .*?toIntervalDay\((\d+)\)")
_MONTH = re.compile(r"FROM \('([^']+)'\)")


@dataclass(frozen=True, slots=True)
class CheckedRange:
    """What is compared: what was accepted at or after `since` and before `until` (Unix milliseconds), of one tenant or of all (None).
    `kept` has the tenants whose rows are kept for a shorter time: only what was accepted at or after that."""

    since: int = EARLIEST
    until: int = LATEST + 1
    tenant: str | None = None
    kept: Mapping[str, int] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """The parameters of PostgreSQL's statements."""
        kept = json.dumps(dict(self.kept))
        return {
            "since": self.since,
            "until": self.until,
            "tenant": self.tenant,
            "kept": kept,
            "signals": list(SIGNALS),
        }

    def in_clickhouse(self, tenant: str = "tenant_id", at: str = "accepted_at") -> str:
        """The scope as a condition of ClickHouse."""
        moments = f"{at} >= {moment(self.since)} and {at} < {moment(self.until)}"
        for name, since in self.kept.items():
            moments += f" and ({tenant} != {literal(name)} or {at} >= {moment(since)})"
        return moments if self.tenant is None else f"{moments} and {tenant} = {literal(self.tenant)}"


_EPOCH = "timestamptz '1970-01-01 00:00:00+00' + interval '1 millisecond' *"
# Since when the rows of a tenant are compared, and the scope as a condition, both of PostgreSQL.
KEPT_SINCE = f"({_EPOCH} greatest(%(since)s, (%(kept)s::jsonb ->> tenant_id)::bigint))"
IN_POSTGRES = (
    f"accepted_at >= {_EPOCH} %(since)s and accepted_at < {_EPOCH} %(until)s "
    "and (%(tenant)s::text is null or tenant_id = %(tenant)s) "
    f"and (%(kept)s = '{{}}' or accepted_at >= {KEPT_SINCE})"
)


def moment(at: int) -> str:
    """A time in Unix milliseconds as an expression of ClickHouse."""
    return f"fromUnixTimestamp64Milli(toInt64({min(at, LATEST)}), 'UTC')"


def literal(text: str) -> str:
    """A text as a literal of ClickHouse."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def stored_text(column: str) -> str:
    """An expression of ClickHouse: the column as PostgreSQL holds it in a key (sinks/storable_text.py, `key`)."""
    text = f"replaceAll(replaceAll({column}, '\u2400', '\u2400\u2400'), '\\0', '\u24000')"
    short = f"concat(substringUTF8({text}, 1, 100), '~', lower(hex(SHA256({text}))))"
    return f"if(length({text}) <= {KEY_BYTES}, {text}, {short})"


class Look:
    """One look. Blocks; use it in one thread. Raises Unavailable when a database does not answer in time, and NotMigrated."""

    def __init__(self, connection: psycopg.Connection[Any], client: Client, seconds: int) -> None:
        self._connection = connection
        self._client = client
        self._settings = {"max_execution_time": seconds, "max_query_size": 64_000_000}
        self._cursors = 0

    def postgres(self, sql: str, values: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, fetched in parts through a cursor of the server."""
        self._cursors += 1
        with errors_of_postgres(), self._connection.cursor(f"check_{self._cursors}") as cursor:
            cursor.itersize = FETCHED_ROWS
            cursor.execute(sql.encode(), values)
            yield from cursor

    def clickhouse(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, in blocks as ClickHouse sends them."""
        try:
            stream = answered(lambda: self._client.query_row_block_stream(sql, settings=self._settings))
            with stream:
                for block in stream:
                    for row in block:
                        yield tuple(row)
        except DatabaseError as error:
            if error.name == "TIMEOUT_EXCEEDED":
                raise Unavailable("ClickHouse took too long for one query: choose a shorter --from and --to") from error
            raise

    def kept_since(self, relations: Sequence[str], now: int) -> int:
        """Since when ClickHouse surely keeps all rows of these relations: their time to live counts from the insert, which is later."""
        names = ", ".join(map(literal, relations))
        found = self.clickhouse(
            f"select engine_full from system.tables where database = currentDatabase() and name in ({names})"  # noqa: S608  # our own names
        )
        days = [int(ttl[1]) for (engine,) in found if (ttl := _TTL.search(engine))]
        return max((now - (each - 1) * _DAY_MS for each in days), default=EARLIEST)

    def first_month(self) -> int:
        """The begin of the first month that PostgreSQL keeps, in Unix milliseconds; earlier ones may have been dropped."""
        found = self.postgres(
            "select pg_get_expr(c.relpartbound, c.oid) from pg_inherits i join pg_class c on c.oid = i.inhrelid"
            " where i.inhparent = 'deliveries'::regclass",
            {},
        )
        begins = [begin[1] for (bound,) in found if (begin := _MONTH.search(bound))]
        if not begins:
            return EARLIEST
        [(at,)] = self.postgres(
            "select (extract(epoch from min(b::timestamptz)) * 1000)::bigint from unnest(%(b)s::text[]) as b",
            {"b": begins},
        )
        return int(at)


class Databases:
    """The two databases of a check. `look` may be called again and again; each look sees what is there now."""

    def __init__(self, postgres_url: str, clickhouse_url: str, seconds: int) -> None:
        self._urls = postgres_url, clickhouse_url
        self._seconds = seconds

    @contextmanager
    def look(self) -> Iterator[Look]:
        """Connects, and disconnects at the end. Raises Unavailable or NotMigrated."""
        postgres_url, clickhouse_url = self._urls
        client = connect(clickhouse_url)
        try:
            with connected(postgres_url) as connection:
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                connection.read_only = True
                connection.execute(f"set local statement_timeout = {self._seconds * 1000}".encode())
                connection.execute("set local lock_timeout = 5000")
                connection.execute("set local timezone = 'UTC'")
                yield Look(connection, client, self._seconds)
        finally:
            client.close()


def connected(url: str) -> psycopg.Connection[Any]:
    """A connection to PostgreSQL. Waits 10 s at most. Raises Unavailable."""
    try:
        return psycopg.connect(url, connect_timeout=10)
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        raise Unavailable(access_errors.access_error(access_errors.of_url("PostgreSQL", url), error)) from error


@contextmanager
def errors_of_postgres() -> Iterator[None]:
    """Turns errors of PostgreSQL that are no bug into Unavailable or NotMigrated."""
    try:
        yield
    except psycopg.errors.UndefinedTable as error:
        raise NotMigrated(
            f"PostgreSQL lacks our relations, run `python -m sinks.migrate`: {sentence(error)}"
        ) from error
    except psycopg.errors.QueryCanceled as error:
        raise Unavailable("PostgreSQL took too long for one query: choose a shorter --from and --to") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise Unavailable(f"the user of CHAT4ALL_POSTGRES_URL may not do this: {sentence(error)}") from error
    except psycopg.OperationalError as error:
        raise Unavailable(f"PostgreSQL went away: {sentence(error)}") from error
