"""The replays themselves: from Kafka into PostgreSQL or ClickHouse, and from PostgreSQL into ClickHouse.

Enters: settings and a range. Leaves: rows that were missing, and a Replayed that says what was read, written and could not be had.
Guaranteed: what is there stays as it is. The sinks may run meanwhile: PostgreSQL's merges never go backwards, and into ClickHouse goes only
what stage analyse has passed.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cli.operator_access import operator_access
from cli.sink_positions import SinkPositions
from cli.topic_ranges import TopicReader, Wanted
from pipelines.analyse import Analyse
from pipelines.archive import Archive
from pipelines.engine.stage import Inputs, Record
from schemas import codec
from schemas.catalog import TOPICS
from schemas.records import DeadLetter
from schemas.retention_days import retention_in
from schemas.settings import Settings
from sinks.check_look import CheckedRange
from sinks.clickhouse import ClickHouseFacts, connect
from sinks.fact_tables import ACCEPTED, DEAD_LETTERS, EVENTS, FactTable, refused
from sinks.postgres import PostgresArchive
from sinks.replay_facts import MissingFacts, snapshot, timelines_in
from sinks.sink_errors import Unavailable

TRIES = (
    5  # of a PostgreSQL batch: a merge of the archive at the same time may be chosen as the other side of a deadlock
)
LETTERS = "dead-letters"


@dataclass(slots=True)
class Replayed:
    """What a replay did. `written` is relation -> rows; `notes` are sentences about what could not be had."""

    source: str
    read: int = 0
    written: Counter[str] = field(default_factory=Counter)
    refused: int = 0  # records that cannot be decoded: dead letters since the sink first met them
    notes: list[str] = field(default_factory=list)


def kafka_to_postgres(settings: Settings, wanted: Wanted) -> Replayed:
    """Merges records of the topics of stage archive again. Blocks. Raises Unavailable or NotMigrated."""
    done = Replayed("Kafka")
    sink = PostgresArchive(
        settings.postgres_url, retention=retention_in(settings.retention_days, settings.tenant_retention)
    )
    stage = Archive(sink=sink, linger_ms=0)
    state = stage.open(0, {})
    with asyncio.Runner() as runner:
        try:
            for batch in _records(settings, [source.topic for source in Archive.sources], wanted, done):
                decision = stage.decide(Inputs(batch, []), state, 0)
                writes = decision.writes
                done.refused += len(decision.refusals)
                members = list(writes.members.values())
                _again(
                    lambda writes=writes, members=members: runner.run(  # type: ignore[misc]  # mypy cannot type a default in a lambda
                        sink.write(
                            messages=writes.messages,
                            states=writes.states,
                            cursors=writes.cursors,
                            members=members,
                            offsets={},
                        )
                    )
                )
        finally:
            runner.run(sink.close())
    return done


def kafka_to_clickhouse(settings: Settings, wanted: Wanted, run: str) -> Replayed:
    """Inserts the rows of stage analyse that ClickHouse lacks, and dead letters, as far as analyse has come. Blocks. Raises Unavailable or
    NotMigrated."""
    done = Replayed("Kafka")
    readers = Analyse(sink=ClickHouseFacts(settings.clickhouse_url), linger_ms=0).readers
    now, retention = time.time(), retention_in(settings.retention_days, settings.tenant_retention)

    def facts_of(record: Record) -> list[tuple[FactTable, Any]]:
        if record.topic == LETTERS:
            return [(DEAD_LETTERS, refused(codec.decode(record.value, DeadLetter)))]
        return readers[record.topic](record)

    with _missing(settings, run, done) as (runner, missing):
        for batch in _records(settings, [*readers, LETTERS], wanted, done, passed_by="analyse"):
            rows: dict[str, tuple[FactTable, list[Any]]] = {}
            for record in batch:
                try:
                    found = facts_of(record)
                except codec.CodecError:
                    done.refused += 1
                    continue
                for table, row in found:
                    if table is DEAD_LETTERS or retention.keeps(row.tenant_id, row.accepted_at, now):
                        rows.setdefault(table.name, (table, []))[1].append(row)
            for table, offered in rows.values():
                runner.run(missing.add(table, offered))
    return done


def postgres_to_clickhouse(settings: Settings, scope: CheckedRange, run: str, wait_seconds: float) -> Replayed:
    """Inserts the transitions and accepted deliveries of PostgreSQL that ClickHouse lacks. Waits until stage analyse has passed what
    PostgreSQL has. Blocks. Raises Unavailable or NotMigrated."""
    done = Replayed("PostgreSQL")
    done.notes.append("inbound_events and dead_letter_events are not made from PostgreSQL: use --source kafka for them")
    with snapshot(settings.postgres_url) as connection:
        positions = SinkPositions(operator_access(settings), settings.postgres_url)
        try:
            behind = positions.await_passed(wait_seconds, sinks=("analyse",))
        finally:
            positions.close()
        if behind:
            raise Unavailable(f"stage analyse must pass what PostgreSQL has before it can be compared: {behind}")
        with _missing(settings, run, done) as (runner, missing):
            for states, accepted in timelines_in(connection, scope):
                done.read += len(states)
                runner.run(missing.add(EVENTS, states))
                runner.run(missing.add(ACCEPTED, [accepted]))
    return done


@contextmanager
def _missing(settings: Settings, run: str, done: Replayed) -> Iterator[tuple[asyncio.Runner, MissingFacts]]:
    """MissingFacts and the loop that it runs in; at the end, what is left is inserted and counted."""
    client, facts = connect(settings.clickhouse_url), ClickHouseFacts(settings.clickhouse_url)
    missing = MissingFacts(client, facts, run)
    with asyncio.Runner() as runner:
        try:
            runner.run(facts.open())
            yield runner, missing
            runner.run(missing.finish())
            done.written.update(missing.inserted)
        finally:
            runner.run(facts.close())
            client.close()


def _records(
    settings: Settings, topics: list[str], wanted: Wanted, done: Replayed, passed_by: str = ""
) -> Iterator[list[Record]]:
    """The wanted records of the topics; with `passed_by`, only what that sink has passed, in the topics that it reads. Of a compacted topic
    all records: it has the newest of each key only."""
    positions, reader = (
        SinkPositions(operator_access(settings), settings.postgres_url),
        TopicReader(operator_access(settings)),
    )
    try:
        ends = positions.ends(topics)
        if passed_by:
            ends |= {
                (each.topic, each.partition): min(each.end, each.next_offset or 0)
                for each in positions.of(ends)
                if each.sink == passed_by
            }
        for is_compacted in (False, True):
            own = {place: end for place, end in ends.items() if (TOPICS[place[0]].policy == "compact") is is_compacted}
            ranges = reader.ranges(own, Wanted() if is_compacted else wanted)
            done.notes += [] if is_compacted else ranges.gone
            for batch in reader.read(ranges):
                done.read += len(batch)
                yield batch
    finally:
        reader.close()
        positions.close()


def _again(write: Callable[[], None]) -> None:
    for left in reversed(range(TRIES)):
        try:
            return write()
        except Unavailable:
            if not left:
                raise
            time.sleep(1)
    return None
