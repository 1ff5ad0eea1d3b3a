"""The stages of both sinks, from the bytes of Kafka's records on, beside the least that their databases ask for, with the same rows.

Enters: databases with our relations. Leaves: events a second of each side, and of our side the events a CPU second of this process. Our
side decodes and checks the records, plans, and writes, as in a worker. In PostgreSQL the peer is psycopg alone: a COPY of rows that were
prepared before, and the same merge. In ClickHouse it is clickhouse-connect alone, with columns that were prepared before. The two sides
take turns, each with a database of its own, which holds the same rows at the end: if not, nothing was measured.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from clickhouse_connect.driver.client import Client

from benchmarks.sinks.events import Batch, batch
from pipelines.analyse import Analyse
from pipelines.archive import Archive
from pipelines.engine.stage import Inputs, Record, Stage
from schemas import codec
from schemas.keys import key_of
from schemas.records import Cursor
from sinks import staging
from sinks.clickhouse import ClickHouseFacts, connect
from sinks.fact_tables import EVENTS, batch_of, columns
from sinks.postgres import PostgresArchive
from tables.cursors import cursor_key
from tables.plans import PLANS
from tables.stores.factory import open_partition
from tables.table import Table

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


def _records(topic: str, of_topic: Any, first: int) -> list[Record]:
    return [
        Record(topic, 0, offset, 0, _key(each), codec.encode(each), ()) for offset, each in enumerate(of_topic, first)
    ]


def _key(record: Any) -> bytes:
    if isinstance(record, Cursor):
        return cursor_key(record.tenant_id, record.conversation_id, record.member).encode()
    return key_of(record)


async def _turn(stage: Stage[Any], state: Any, records: Sequence[Record]) -> None:
    decision = stage.decide(Inputs(records, ()), state, int(time.time() * 1000))
    if decision.refusals:
        raise SystemExit(f"wrong work, not measured: {decision.refusals[0].detail}")
    await stage.write(decision)


# --- PostgreSQL ---------------------------------------------------------------------------------------------------------


async def archive(ours_url: str, peer_url: str, rounds: int, messages: int) -> list[Round]:
    """Each round is one transaction: `messages` messages, four transitions of each, and a cursor of each."""
    stage = Archive(sink=PostgresArchive(ours_url), linger_ms=0)
    await stage.start()
    await stage.positions([(topic, 0) for topic in TOPICS])
    state = stage.open(0, {})
    batches = [batch(number * messages, messages) for number in range(rounds + 1)]
    with psycopg.connect(peer_url, autocommit=True) as connection:
        for relation in (staging.MESSAGES, staging.STATES, staging.CURSORS):
            connection.execute(relation.create.encode())
        connection.execute("insert into sink_offsets select 'archive', unnest(%s::text[]), 0, 0", (list(TOPICS),))

        def pair(number: int) -> tuple[Write, Write]:
            given = batches[number]
            sizes = (len(given.messages), len(given.states), len(given.cursors))
            spans = {(topic, 0): (number * n, number * n + n) for topic, n in zip(TOPICS, sizes, strict=True)}
            prepared = Prepared.of(given)
            records = [
                each
                for topic, of_topic in zip(TOPICS, given, strict=True)
                for each in _records(topic, of_topic, spans[topic, 0][0])
            ]

            async def ours() -> None:
                await _turn(stage, state, records)

            async def peer() -> None:
                await asyncio.to_thread(_merge, connection, prepared, spans)

            return ours, peer

        found = await in_turns([pair(number) for number in range(rounds + 1)], batches[0].events)
    await stage.stop()
    _same(_rows(ours_url), _rows(peer_url))
    return found


class Prepared(NamedTuple):
    """Rows in the types of PostgreSQL, as the staging relations take them."""

    messages: list[list[Any]]
    states: list[list[Any]]
    cursors: list[list[Any]]

    @classmethod
    def of(cls, given: Batch) -> "Prepared":
        relations = (staging.MESSAGES, staging.STATES, staging.CURSORS)
        records: tuple[Any, ...] = given
        return cls(*(list(relation.rows(each)) for relation, each in zip(relations, records, strict=True)))


def _merge(
    connection: psycopg.Connection[Any], rows: Prepared, spans: Mapping[tuple[str, int], tuple[int, int]]
) -> None:
    with connection.transaction():
        for (topic, number), (expected, following) in spans.items():
            connection.execute(
                "update sink_offsets set next_offset = %s, updated_at = now()"
                " where sink = 'archive' and topic = %s and partition = %s and next_offset = %s",
                (following, topic, number, expected),
            )
        _copy(connection, staging.MESSAGES, rows.messages)
        connection.execute(staging.FIND_STORED.encode()).fetchall()
        connection.execute(staging.MERGE_MESSAGES.encode(), ([],))
        connection.execute(staging.MERGE_CONVERSATIONS.encode(), ([],))
        _copy(connection, staging.STATES, rows.states)
        connection.execute(staging.MERGE_EVENTS.encode())
        connection.execute(staging.MERGE_DELIVERIES.encode())
        _copy(connection, staging.CURSORS, rows.cursors)
        connection.execute(staging.MERGE_CURSORS.encode())


def _copy(connection: psycopg.Connection[Any], relation: staging.Staging, rows: list[list[Any]]) -> None:
    with connection.cursor() as cursor, cursor.copy(relation.copy.encode()) as copy:
        copy.set_types(relation.types)
        for row in rows:
            copy.write_row(row)


def _rows(url: str) -> Any:
    relations = ("messages", "conversations", "deliveries", "delivery_events", "message_states", "cursors")
    with psycopg.connect(url) as connection:
        return [
            connection.execute(f"select count(*) from {relation}".encode()).fetchone()  # noqa: S608  # our own names
            for relation in relations
        ]


# --- ClickHouse ---------------------------------------------------------------------------------------------------------


async def analyse(ours_url: str, peer_url: str, rounds: int, messages: int) -> list[Round]:
    """`messages` of each round have four transitions each."""
    stage, client = Analyse(sink=ClickHouseFacts(ours_url), linger_ms=0), connect(peer_url)
    await stage.start()
    plans: Table[Any] = open_partition("memory", PLANS, Path(), "bench")
    state = stage.open(0, {"plans": plans})
    batches = [batch(number * messages, messages).states for number in range(rounds + 1)]

    def pair(number: int) -> tuple[Write, Write]:
        states = batches[number]
        prepared = columns(EVENTS, states, batch_of(str(number)))

        records = _records("delivery-states", states, number * len(states))

        async def ours() -> None:
            await _turn(stage, state, records)

        async def peer() -> None:
            await asyncio.to_thread(_insert, client, prepared)

        return ours, peer

    found = await in_turns([pair(number) for number in range(rounds + 1)], len(batches[0]))
    await stage.stop()
    _same(_counts(ours_url), _counts(peer_url))
    client.close()
    return found


def _insert(client: Client, prepared: list[list[Any]]) -> None:
    client.insert(
        "delivery_events",
        prepared,
        column_names=list(EVENTS.columns),
        column_type_names=list(EVENTS.columns.values()),
        column_oriented=True,
        settings={"async_insert": 0, "max_partitions_per_insert_block": 0},
    )


def _counts(url: str) -> Any:
    client = connect(url)
    try:
        return client.query(
            "select (select count() from delivery_events), (select count() from deliveries final),"
            " (select sum(read) from deliveries_by_hour)"
        ).result_rows
    finally:
        client.close()


def _same(ours: Any, peer: Any) -> None:
    if ours != peer or not ours:
        raise SystemExit(f"wrong work, not measured: ours {ours}, the peer {peer}")
