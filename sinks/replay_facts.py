"""Missing facts into ClickHouse: for `chat4all replay --into clickhouse`.

Enters: rows, from Kafka or from PostgreSQL. Leaves: those that ClickHouse lacks, inserted once. Guaranteed: a row that is there is not
inserted, so that no roll-up counts it twice; if the command ends in the middle, the next one finds what is there. One replay at a time
(an advisory lock of PostgreSQL); stage analyse must have passed the rows before, because it inserts without asking.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import psycopg
from clickhouse_connect.driver.client import Client
from psycopg.rows import dict_row

from schemas.records import DeliveryState
from sinks.check_look import IN_POSTGRES, CheckedRange, connected, errors_of_postgres
from sinks.check_result import merged
from sinks.clickhouse import ClickHouseFacts, answered
from sinks.fact_repeats import stored
from sinks.fact_tables import AcceptedDelivery, FactTable
from sinks.replay_rows import accepted_of, states_of

INSERT_ROWS = 10_000  # of one relation
FETCHED_ROWS = 2000
_REPLAY_LOCK = 4_201_841_046  # an arbitrary number, the same in every release: one replay at a time

_DELIVERIES = f"""
    select d.*, m.campaign
      from deliveries d
      left join lateral (
            select metadata ->> 'campaign' as campaign from messages
             where tenant_id = d.tenant_id and conversation_id = d.conversation_id and message_id = d.message_id limit 1
           ) as m on true
     where {IN_POSTGRES} and kind <> all(%(signals)s) order by tenant_id collate "C", delivery_id collate "C"
"""  # noqa: S608  # our own text
_EVENTS = f'select * from delivery_events where {IN_POSTGRES} order by tenant_id collate "C", delivery_id collate "C"'  # noqa: S608  # the same


class AnotherReplay(Exception):
    """Another replay runs. The sentence says so."""


class MissingFacts:
    """Inserts what is missing. `run` names this replay: tokens begin with it. Coroutines of one loop; raises Unavailable or NotMigrated."""

    def __init__(self, client: Client, facts: ClickHouseFacts, run: str) -> None:
        self._client = client
        self._facts = facts
        self._run = run
        self._waiting: dict[str, tuple[FactTable, dict[Any, Any]]] = {}
        self.offered: dict[str, int] = {}
        self.inserted: dict[str, int] = {}

    async def add(self, table: FactTable, rows: Sequence[Any]) -> None:
        """Takes rows; inserts when there are enough of them."""
        _, waiting = self._waiting.setdefault(table.name, (table, {}))
        identity = attrgetter(*table.identity)
        waiting.update((identity(row), row) for row in rows)
        self.offered[table.name] = self.offered.get(table.name, 0) + len(rows)
        if len(waiting) >= INSERT_ROWS:
            await self._flush(table)

    async def finish(self) -> None:
        """Inserts the rest."""
        for table, _ in list(self._waiting.values()):
            await self._flush(table)

    async def _flush(self, table: FactTable) -> None:
        waiting = self._waiting[table.name][1]
        rows = sorted(waiting.values(), key=attrgetter(*table.identity))
        present, _ = answered(lambda: stored(self._client, table, None, rows))
        identity = attrgetter(*table.identity)
        missing = [row for row in rows if identity(row) not in present]
        names = hashlib.sha256("\n".join(repr(identity(row)) for row in missing).encode()).hexdigest()
        await self._facts.insert(f"replay-{self._run}-{names}", missing, table)
        self.inserted[table.name] = self.inserted.get(table.name, 0) + len(missing)
        waiting.clear()


@contextmanager
def alone(postgres_url: str) -> Iterator[None]:
    """Holds the lock of replays until the end. Raises AnotherReplay when another one has it."""
    with connected(postgres_url) as connection:
        connection.autocommit = True
        if connection.execute("select pg_try_advisory_lock(%s)", (_REPLAY_LOCK,)).fetchone() != (True,):
            raise AnotherReplay("another replay runs on this PostgreSQL: wait until it has ended")
        yield


@contextmanager
def snapshot(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A read-only transaction that sees PostgreSQL as it is when this returns."""
    with connected(postgres_url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        connection.execute("select 1")
        yield connection


def timelines_in(
    connection: psycopg.Connection[Any], scope: CheckedRange
) -> Iterator[tuple[list[DeliveryState], AcceptedDelivery]]:
    """The transitions of each delivery in the scope, and what was accepted of it; without signals. Holds one delivery at a time."""
    for _, deliveries, events in merged(
        _keyed(connection, "d", _DELIVERIES, scope), _keyed(connection, "e", _EVENTS, scope)
    ):
        if deliveries:
            yield list(states_of(deliveries[0], events)), accepted_of(deliveries[0])


def _keyed(
    connection: psycopg.Connection[Any], name: str, sql: str, scope: CheckedRange
) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    with errors_of_postgres(), connection.cursor(f"replay_{name}", row_factory=dict_row) as cursor:
        cursor.itersize = FETCHED_ROWS
        cursor.execute(sql.encode(), scope.values())
        for row in cursor:
            yield (row["tenant_id"], row["delivery_id"]), row
