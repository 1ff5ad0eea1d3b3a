"""Both sinks beside the least that their databases ask for, with the same rows.

Enters: databases with our relations. Leaves: events a second of each side, and of our side the events a CPU second of this process. In
PostgreSQL the peer is psycopg alone: a COPY of rows that were prepared before, and the same merge. In ClickHouse it is clickhouse-connect
alone, with columns that were prepared before. The two sides take turns, each with a database of its own, which holds the same rows at the
end: if not, nothing was measured.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from clickhouse_connect.driver.client import Client

from benchmarks.sinks.events import Batch, batch
from sinks import staging
from sinks.clickhouse import COLUMNS, ClickHouseFacts, columns, connect
from sinks.postgres import PostgresArchive

TOPICS = ("conversation-log", "delivery-states", "cursors")


class Round(NamedTuple):
    """Events a second (wall), and of ours events a CPU second of this process."""

    ours: float
    peer: float
    ours_cpu: float

    @property
    def ratio(self) -> float:
        return self.ours / self.peer


Write = Callable[[], Awaitable[None]]


async def in_turns(pairs: Sequence[tuple[Write, Write]], events: int) -> list[Round]:
    """Runs each pair, (ours, peer), whichever first in turn. `events` is how many each of them writes. The first pair is a warm-up."""
    rounds = []
    for number, pair in enumerate(pairs):
        seconds: dict[int, tuple[float, float]] = {}
        for side in (0, 1) if number % 2 else (1, 0):
            began, cpu = time.perf_counter(), time.process_time()
            await pair[side]()
            seconds[side] = (time.perf_counter() - began, time.process_time() - cpu)
        rounds.append(Round(events / seconds[0][0], events / seconds[1][0], events / seconds[0][1]))
    return rounds[1:]


# --- ClickHouse ---------------------------------------------------------------------------------------------------------


async def analyse(ours_url: str, peer_url: str, rounds: int, messages: int) -> list[Round]:
    """`messages` of each round have four transitions each."""
    facts, client = ClickHouseFacts(ours_url), connect(peer_url)
    await facts.open()
    batches = [batch(number * messages, messages).states for number in range(rounds + 1)]

    def pair(number: int) -> tuple[Write, Write]:
        states = batches[number]
        prepared = columns(states)

        async def ours() -> None:
            await facts.insert(f"bench-{number}", states)

        async def peer() -> None:
            await asyncio.to_thread(_insert, client, prepared)

        return ours, peer

    found = await in_turns([pair(number) for number in range(rounds + 1)], len(batches[0]))
    await facts.close()
    _same(_counts(ours_url), _counts(peer_url))
    client.close()
    return found


def _insert(client: Client, prepared: list[list[Any]]) -> None:
    client.insert(
        "delivery_events",
        prepared,
        column_names=list(COLUMNS),
        column_type_names=list(COLUMNS.values()),
        column_oriented=True,
        settings={"async_insert": 0, "max_partitions_per_insert_block": 0},
    )


def _counts(url: str) -> Any:
    client = connect(url)
    try:
        return client.query(
            "select (select count() from delivery_events), (select count() from deliveries final), (select sum(read) from deliveries_by_hour)"
        ).result_rows
    finally:
        client.close()


def _same(ours: Any, peer: Any) -> None:
    if ours != peer or not ours:
        raise SystemExit(f"wrong work, not measured: ours {ours}, the peer {peer}")
