"""The stages of both sinks, from the bytes of Kafka's records on, beside the least that their databases ask for, with the same rows.

Enters: databases with our relations. Leaves: events a second of each side, and of our side the events a CPU second of this process. Our
side decodes and checks the records, plans, and writes, as in a worker. In PostgreSQL the peer is psycopg alone: a COPY of rows that were
prepared before, and the same merge. In ClickHouse it is clickhouse-connect alone, with columns that were prepared before. The two sides
take turns, each with a database of its own, which holds the same rows at the end: if not, nothing was measured.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from clickhouse_connect.driver.client import Client

from benchmarks.sinks.events import Batch, batch
from pipelines.analyse import Analyse
from pipelines.archive import Archive
from pipelines.engine.garbage_collection import favour_long_decisions
from pipelines.engine.stage import Decision, Inputs, Record, Stage
from schemas import codec
from schemas.keys import key_of
from schemas.records import Cursor, DeliveryState
from sinks import staging
from sinks.clickhouse import ClickHouseFacts, connect
from sinks.fact_tables import EVENTS, batch_of, columns
from sinks.postgres import PostgresArchive
from tables.cursors import cursor_key
from tables.plans import PLANS
from tables.stores.factory import open_partition
from tables.table import Table

TOPICS = ("conversation-log", "delivery-states", "cursors")


PARTITIONS = 2  # a worker has several: while the database works for one, it decodes for another
TURNS = 4  # of each partition in a round: enough for the two to overlap, as in a backlog
SIDES = ("stage", "sink", "peer")


class Round(NamedTuple):
    """Events a second of the stage, of its sink alone (from decoded records on) and of the peer; and events a CPU second of this process,
    for the stage."""

    stage: float
    sink: float
    peer: float
    stage_cpu: float


class Turn(NamedTuple):
    """One turn of one partition: its records, and the same rows for the peer."""

    partition: int
    records: Sequence[Record]
    peer: Callable[[], None]


class Side:
    """A stage with a database of its own, and its partitions."""

    def __init__(self, stage: Stage[Any], tables: Sequence[Mapping[str, Table[Any]]]) -> None:
        self.stage = stage
        self._states = [stage.open(number, given) for number, given in enumerate(tables)]

    def decided(self, turn: Turn) -> Decision:
        decision = self.stage.decide(Inputs(turn.records, ()), self._states[turn.partition], int(time.time() * 1000))
        if decision.refusals:
            raise SystemExit(f"wrong work, not measured: {decision.refusals[0].detail}")
        return decision

    async def run(self, turns: Sequence[Turn]) -> None:
        """All partitions at a time, as in a worker; the turns of each one after the other."""

        async def partition(number: int) -> None:
            for turn in turns:
                if turn.partition == number:
                    await self.stage.write(self.decided(turn))

        await asyncio.gather(*map(partition, range(PARTITIONS)))


async def in_turns(sides: Sequence[Side], rounds: Sequence[Sequence[Turn]]) -> list[Round]:
    """Runs each round three times: by the stage, by the sink with decisions that were made before, and by the peer, in changing order.
    `sides` are the stage and the sink. The first round is a warm-up."""
    stage, sink = sides
    favour_long_decisions()  # as every worker does
    found = []
    for number, turns in enumerate(rounds):
        events = sum(len(turn.records) for turn in turns)
        seconds: dict[str, float] = {}
        for at in range(len(SIDES)):
            side = SIDES[(at + number) % len(SIDES)]
            decisions = [sink.decided(turn) for turn in turns] if side == "sink" else []
            began, cpu = time.perf_counter(), time.process_time()
            if side == "stage":
                await stage.run(turns)
                seconds["cpu"] = time.process_time() - cpu
            elif side == "sink":
                for decision in decisions:
                    await sink.stage.write(decision)
            else:
                await asyncio.to_thread(_run_peer, turns)
            seconds[side] = time.perf_counter() - began
        found.append(Round(*(events / seconds[name] for name in (*SIDES, "cpu"))))
    return found[1:]


def _run_peer(turns: Sequence[Turn]) -> None:
    for turn in turns:
        turn.peer()


def _places(rounds: int) -> Iterator[tuple[int, int, int]]:
    """Each turn as (round, partition, number of the turn in its partition), in the order of a round."""
    for number in range(rounds + 1):
        for turn in range(TURNS):
            for partition in range(PARTITIONS):
                yield number, partition, number * TURNS + turn


def _records(topic: str, partition: int, of_topic: Any, first: int) -> list[Record]:
    return [
        Record(topic, partition, offset, 0, _key(each), codec.encode(each), ())
        for offset, each in enumerate(of_topic, first)
    ]


def _key(record: Any) -> bytes:
    if isinstance(record, Cursor):
        return cursor_key(record.tenant_id, record.conversation_id, record.member).encode()
    return key_of(record)


# --- PostgreSQL ---------------------------------------------------------------------------------------------------------


async def archive(urls: Mapping[str, str], rounds: int, messages: int) -> list[Round]:
    """`urls` has a database for each side. Each turn has `messages` messages, four transitions of each, and a cursor of each."""
    with psycopg.connect(urls["peer"], autocommit=True) as connection:
        for relation in (staging.MESSAGES, staging.STATES, staging.CURSORS):
            connection.execute(relation.create.encode())
        connection.execute(
            "insert into sink_offsets select 'archive', t, n, 0 from unnest(%s::text[]) as t, generate_series(0, %s) as n",
            (list(TOPICS), PARTITIONS - 1),
        )
        made: list[list[Turn]] = [[] for _ in range(rounds + 1)]
        for place, (number, partition, turn) in enumerate(_places(rounds)):
            made[number].append(_archive_turn(connection, batch(place * messages, messages), partition, turn))
        sides = []
        for name in ("stage", "sink"):
            stage = Archive(sink=PostgresArchive(urls[name]), linger_ms=0)
            await stage.start()
            await stage.positions([(topic, number) for topic in TOPICS for number in range(PARTITIONS)])
            sides.append(Side(stage, [{} for _ in range(PARTITIONS)]))
        found = await in_turns(sides, made)
    for side in sides:
        await side.stage.stop()
    _same([_rows(url) for url in urls.values()])
    return found


def _archive_turn(connection: psycopg.Connection[Any], given: Batch, partition: int, turn: int) -> Turn:
    sizes = (len(given.messages), len(given.states), len(given.cursors))
    spans = {(topic, partition): (turn * n, turn * n + n) for topic, n in zip(TOPICS, sizes, strict=True)}
    prepared = Prepared.of(given)
    records = [
        each
        for topic, of_topic in zip(TOPICS, given, strict=True)
        for each in _records(topic, partition, of_topic, spans[topic, partition][0])
    ]
    return Turn(partition, records, lambda: _merge(connection, prepared, spans))


class Prepared(NamedTuple):
    """Rows in the types of PostgreSQL, as the staging relations take them."""

    messages: list[tuple[Any, ...]]
    states: list[tuple[Any, ...]]
    cursors: list[tuple[Any, ...]]

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
        connection.execute(staging.ADD_SENDERS.encode())
        _copy(connection, staging.STATES, rows.states)
        connection.execute(staging.MERGE_EVENTS.encode())
        connection.execute(staging.MERGE_DELIVERIES.encode())
        connection.execute(staging.ADD_RECIPIENTS.encode())
        _copy(connection, staging.CURSORS, rows.cursors)
        connection.execute(staging.MERGE_CURSORS.encode())


def _copy(connection: psycopg.Connection[Any], relation: staging.Staging, rows: list[tuple[Any, ...]]) -> None:
    with connection.cursor() as cursor, cursor.copy(relation.copy.encode()) as copy:
        copy.set_types(relation.types)
        for row in rows:
            copy.write_row(row)


def _rows(url: str) -> Any:
    relations = (
        "messages",
        "conversations",
        "participants",
        "deliveries",
        "delivery_events",
        "message_states",
        "cursors",
    )
    with psycopg.connect(url) as connection:
        return [
            connection.execute(f"select count(*) from {relation}".encode()).fetchone()  # noqa: S608  # our own names
            for relation in relations
        ]


# --- ClickHouse ---------------------------------------------------------------------------------------------------------


async def analyse(urls: Mapping[str, str], rounds: int, messages: int) -> list[Round]:
    """`urls` has a database for each side. Each turn has four transitions of each of `messages` messages."""
    client = connect(urls["peer"])
    made: list[list[Turn]] = [[] for _ in range(rounds + 1)]
    for place, (number, partition, turn) in enumerate(_places(rounds)):
        made[number].append(_analyse_turn(client, batch(place * messages, messages).states, partition, turn))
    sides = []
    for name in ("stage", "sink"):
        stage = Analyse(sink=ClickHouseFacts(urls[name]), linger_ms=0)
        await stage.start()
        plans = [{"plans": open_partition("memory", PLANS, Path(), f"bench-{n}")} for n in range(PARTITIONS)]
        sides.append(Side(stage, plans))
    found = await in_turns(sides, made)
    for side in sides:
        await side.stage.stop()
    client.close()
    _same([_counts(url) for url in urls.values()])
    return found


def _analyse_turn(client: Client, states: Sequence[DeliveryState], partition: int, turn: int) -> Turn:
    prepared = columns(EVENTS, states, batch_of(f"{partition}-{turn}"))
    records = _records("delivery-states", partition, states, turn * len(states))
    return Turn(partition, records, lambda: _insert(client, prepared))


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


def _same(of_sides: Sequence[Any]) -> None:
    if any(each != of_sides[0] for each in of_sides) or not of_sides[0]:
        raise SystemExit(f"wrong work, not measured: the databases hold {of_sides}")
