"""Workers of the sinks crash repeatedly between a write and its confirmation, each time with other partitions in a group: both databases
contain every transition once."""

import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # exported there, not in its __all__

from pipelines.engine.kafka_names import app_id, changelog_topic
from schemas import codec
from schemas.kafka_access import KafkaAccess
from sinks.clickhouse import connect
from stack import clickhouse_server
from stack.service import Child
from tests.support.engine_harness import Toy, await_true
from tests.support.fact_reference import differences
from tests.support.long_runs import LONG
from tests.support.sabotage import EXIT_CODE
from tests.support.sink_databases import clickhouse_database, postgres_database, state

DELIVERIES, VERSIONS = 300, 4
STATES = DELIVERIES * VERSIONS
SECONDS = 90.0  # time-out of each wait


@pytest.fixture
def sink(kafka_url: str, unique: str, tmp_path: Path) -> Iterator[Toy]:
    """A topic of states in four partitions, full of transitions, and workers of a sink on it."""
    made = Toy(kafka_url, unique, tmp_path, sources=("states",))
    changelog = NewTopic(
        changelog_topic(app_id(unique), None), made.partitions, 1, config={"cleanup.policy": "compact"}
    )
    made.admin.create_topics([changelog])[changelog.topic].result(30)
    made.produce(
        [(f"d{n}", codec.encode(state(n, version))) for version in range(1, VERSIONS + 1) for n in range(DELIVERIES)]
    )
    yield made
    made.stop()


def ends(toy: Toy) -> dict[int, int]:
    """The end offsets of the topic's partitions."""
    consumer = Consumer({**KafkaAccess(toy.kafka_url).settings("test"), "group.id": "ends"})
    found = {
        number: consumer.get_watermark_offsets(TopicPartition(toy.source, number), timeout=10)[1]
        for number in range(toy.partitions)
    }
    consumer.close()
    return found


def die(toy: Toy, *kinds: tuple[str, int]) -> None:
    """Workers that run together and each crash at one of their writes; the next ones take over. Each gets further than the one before:
    repeated crashes at the same place are another matter (decision 0013)."""
    workers = [toy.start_worker(f"--end-{when}", str(number)) for when, number in kinds]
    for worker in workers:
        assert worker.wait(SECONDS) == EXIT_CODE


def run_to_the_end(toy: Toy, is_done: Callable[[], bool]) -> None:
    worker = toy.start_worker()
    await_true(lambda: worker.poll() is not None or is_done(), "everything to be written", SECONDS)
    assert worker.poll() is None


def test_postgresql_holds_every_transition_once_whoever_dies_with_whatever_group(sink: Toy, postgres_url: str) -> None:
    with postgres_database(postgres_url) as url:
        sink.command = [sys.executable, "-m", "tests.support.sink_worker", sink.name, "archive"]
        sink.extra = {"CHAT4ALL_POSTGRES_URL": url, "CHAT4ALL_ARCHIVE_LINGER_MS": "100"}
        whole = sum(ends(sink).values())
        assert whole == STATES

        def rows(query: str) -> list[tuple[int, ...]]:
            with psycopg.connect(url) as connection:
                return connection.execute(query.encode()).fetchall()

        def written() -> int:
            return rows("select coalesce(sum(next_offset), 0)::bigint from sink_offsets")[0][0]

        die(sink, ("after", 6))
        grouped = rows("select count(*) from sink_offsets where next_offset > 0")[0][0]
        assert grouped > 1, "otherwise no group had several partitions, and the test proves nothing"
        die(sink, ("after", 5), ("before", 6))
        die(sink, ("after", 5))
        assert 0 < written() < whole, "otherwise no worker crashed in the middle"
        run_to_the_end(sink, lambda: written() == whole)
        assert rows("select count(*), count(distinct event_id) from delivery_events") == [(STATES, STATES)]
        assert rows("select count(*), min(version), max(version) from deliveries") == [(DELIVERIES, VERSIONS, VERSIONS)]
        assert set(rows("select partition, next_offset from sink_offsets")) == set(ends(sink).items())


def test_clickhouse_counts_every_transition_once_whoever_dies_with_whatever_insert(
    sink: Toy, clickhouse_url: str
) -> None:
    with clickhouse_database(clickhouse_url) as url:
        sink.command = [sys.executable, "-m", "tests.support.sink_worker", sink.name, "analyse"]
        sink.extra = {"CHAT4ALL_CLICKHOUSE_URL": url, "CHAT4ALL_ANALYSE_LINGER_MS": "100"}
        client = connect(url)
        for relation in ("delivery_events", "deliveries"):
            client.command(f"system stop merges {relation}")

        def rows(relation: str = "delivery_events") -> int:
            found: int = client.query(f"select count() from {relation}").result_rows[0][0]
            return found

        die(sink, ("after", 9))
        assert 0 < rows() < STATES
        die(sink, ("after", 5), ("before", 6))
        die(sink, ("after", 9))
        assert rows() < STATES, "otherwise no worker crashed in the middle"
        run_to_the_end(sink, lambda: sink.committed() == ends(sink))
        assert rows() == rows("deliveries") == STATES
        assert client.query("select sum(accepted), sum(read), sum(pending) from deliveries_by_minute").result_rows == [
            (DELIVERIES, DELIVERIES, 0)
        ]
        assert client.query("select uniqExact(delivery_id, version) from delivery_events").result_rows == [(STATES,)]
        client.close()


def memory_mb(pid: int) -> float:
    """What a process has in memory."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def test_clickhouse_is_away_and_the_backlog_drains(sink: Toy, tmp_path: Path) -> None:
    """Killed while a worker inserts, and started again later at the same address; the worker waits, small, and takes no harm."""
    child = Child(clickhouse_server.service(tmp_path / "clickhouse"))
    child.start()
    try:
        child.wait()
        with clickhouse_database(child.service.settings["clickhouse_url"]) as url:
            sink.command = [sys.executable, "-m", "tests.support.sink_worker", sink.name, "analyse"]
            sink.extra = {"CHAT4ALL_CLICKHOUSE_URL": url, "CHAT4ALL_ANALYSE_LINGER_MS": "100"}
            client = connect(url)
            worker = sink.start_worker()
            await_true(
                lambda: client.query("select count() from delivery_events").result_rows[0][0] > 0, "an insert", SECONDS
            )
            before = memory_mb(worker.pid)
            child.terminate(signal.SIGKILL)
            await_true(lambda: child.returncode is not None, "the end of ClickHouse", SECONDS)
            time.sleep(60 if LONG else 3)
            assert worker.poll() is None
            assert memory_mb(worker.pid) < before + 50
            child.start()
            child.wait()
            await_true(lambda: worker.poll() is not None or sink.committed() == ends(sink), "the backlog", SECONDS)
            assert worker.poll() is None
            assert memory_mb(worker.pid) < before + 50
            given = [state(n, version) for version in range(1, VERSIONS + 1) for n in range(DELIVERIES)]
            assert differences(client, given) == []
            client.close()
    finally:
        child.stop(timeout_seconds=2)
        shutil.rmtree(tmp_path / "clickhouse", ignore_errors=True)
