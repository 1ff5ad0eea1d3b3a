"""What of a planned batch ClickHouse has already, and how to insert the rest.

Enters: a batch that may have been inserted before: after a crash, a takeover or an insert without an answer. Leaves: the rows to insert,
and the token for them. Guaranteed: with these, every row of the batch is in its relation once, however many batches other workers
inserted in between. All functions block; they only read. They pass the client's errors on.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from clickhouse_connect.driver.client import Client

from sinks.fact_tables import FILLED, FactTable
from sinks.storable_text import held

# The clocks of a worker and of ClickHouse may differ by this much, in milliseconds.
CLOCK_MS = 300_000
_TIMES = 5000  # in one query, which has at most 256 KiB
_WINDOW = re.compile(r"\bnon_replicated_deduplication_window = (\d+)")

Identity = tuple[Any, ...]


class Repeat(NamedTuple):
    """The insert that completes a batch: its token, and its rows in their order. No rows: nothing is missing."""

    token: str
    rows: Sequence[Any]


def find_repeat(client: Client, table: FactTable, batch: int, tried: Repeat, planned_at: int) -> Repeat:
    """How to complete a batch (number `batch` of the relation's column) of which `tried` was to be inserted, planned at this time. That is
    `tried` again while ClickHouse surely knows that token; beyond that the missing rows, with a token of their own.

    ClickHouse remembers one entry for each insert and day, so many entries of others are counted: since the oldest row of the batch that is
    there, or since it was planned. More than half of the window counts as forgotten."""
    present, inserted_at = stored(client, table, [batch], tried.rows)
    # A release before 0006 wrote neither time nor batch, and its tokens were forgotten when its relations were replaced.
    if planned_at:
        since = planned_at - CLOCK_MS if inserted_at is None else inserted_at
        if inserts_since(client, table, batch, since) < window(client, table) // 2:
            return tried
    else:
        present |= stored(client, table, [0], tried.rows)[0]
    identity = attrgetter(*table.identity)
    missing = [row for row in tried.rows if identity(row) not in present]
    names = "\n".join(repr(identity(row)) for row in missing)
    return Repeat(f"{tried.token}-{hashlib.sha256(names.encode()).hexdigest()[:16]}", missing)


def rows_missing(client: Client, table: FactTable, batches: Sequence[int] | None, rows: Sequence[Any]) -> list[Any]:
    """The rows that are not in the relation, in their order. `batches` as in `stored`."""
    present, _ = stored(client, table, batches, rows)
    identity = attrgetter(*table.identity)
    return [row for row in rows if identity(row) not in present]


def stored(
    client: Client, table: FactTable, batches: Sequence[int] | None, rows: Sequence[Any]
) -> tuple[set[Identity], int | None]:
    """Which of the rows are in the relation, by identity, and when the oldest was inserted (Unix milliseconds; None when there are none).
    `batches` limits it to rows of these batches (numbers of the column `batch`)."""
    times = sorted({held(at) for at in map(attrgetter(table.day), rows)})
    wanted = set(map(attrgetter(*table.identity), rows))
    within = "" if batches is None else f" and batch in ({', '.join(map(str, batches))})"
    found: set[Identity] = set()
    oldest: int | None = None
    for part in _parts(times):
        query = (
            f"select {', '.join(table.identity)}, toUnixTimestamp64Milli(inserted_at) from {table.name}"  # noqa: S608  # names and numbers of ours
            f" where {table.day} >= {_time(part[0])} and {table.day} <= {_time(part[-1])}{within}"
            f" and toUnixTimestamp64Milli({table.day}) in ({', '.join(map(str, part))})"
        )
        for *identity, inserted_at in client.query(query).result_rows:
            if tuple(identity) in wanted:
                found.add(tuple(identity))
                oldest = inserted_at if oldest is None else min(oldest, inserted_at)
    return found, oldest


def inserts_since(client: Client, table: FactTable, batch: int, since: int) -> int:
    """How many entries of the deduplication window other batches have taken since then (Unix milliseconds): one for each day of a batch.
    The roll-ups take fewer, one for each month."""
    query = (
        f"select uniqExact(batch, toYYYYMMDD({table.day})) from {table.name}"  # noqa: S608  # names and numbers of ours
        f" where inserted_at >= {_time(since)} and batch != {batch}"
    )
    return int(client.query(query).result_rows[0][0])


def window(client: Client, table: FactTable) -> int:
    """The smallest deduplication window of the relation and of those that views fill from it, in entries. 0 when one has none."""
    names = ", ".join(f"'{name}'" for name in FILLED[table.name])
    query = f"select engine_full from system.tables where database = currentDatabase() and name in ({names})"  # noqa: S608  # the same
    engines = [_WINDOW.search(engine) for (engine,) in client.query(query).result_rows]
    return min((int(found[1]) if found else 0 for found in engines), default=0)


def _parts(times: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(times), _TIMES):
        yield times[start : start + _TIMES]


def _time(at: int) -> str:
    return f"fromUnixTimestamp64Milli(toInt64({at}), 'UTC')"
