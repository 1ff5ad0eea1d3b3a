"""/health of an engine that runs, restores or is stuck. A liveness probe must end a worker only if a restart helps."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from pipelines.engine.restore import RestoreProgress
from pipelines.engine.worker import Engine
from pipelines.health import health_of, measure_disk, measure_tables
from pipelines.track import Track
from schemas import metrics
from schemas.kafka_access import KafkaAccess
from tests.support.toy_stage import Toy

STUCK_SECONDS = 60.0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine that owns and runs partition 0; Kafka is never asked."""
    made = Engine(
        stage=Toy("toy"),
        app_id="toy",
        kafka=KafkaAccess("127.0.0.1:1"),
        session_seconds=6,
        stuck_seconds=STUCK_SECONDS,
        folder=tmp_path,
    )
    made.partitions[0] = made._partition(0, made._partition_tables.open(0))
    made._running = {0}
    made.joined = True
    yield made
    made._group.close()


def said(engine: Engine) -> tuple[str, bool, bool]:
    found = health_of(engine)
    return found["status"], found["live"], found["ready"]


async def test_an_engine_that_takes_turns_is_ready_and_another_is_restoring(engine: Engine) -> None:
    assert said(engine) == ("ready", True, True)
    engine._running = set()  # between two assignments
    assert said(engine) == ("restoring", True, False)
    engine._running = {0}
    engine.restoring = RestoreProgress(rows=500, total=2000, began=time.monotonic() - 5)
    assert said(engine) == ("restoring", True, False)
    shown = health_of(engine)["restoring"]
    assert shown["rows"] == 500
    assert shown["rows_per_second"] == pytest.approx(100, rel=0.05)
    assert shown["seconds_left"] == pytest.approx(15, rel=0.05)
    engine.restoring = None
    engine.joined = False
    assert said(engine) == ("restoring", True, False)


async def test_only_a_stuck_engine_that_waits_for_no_database_is_not_live(engine: Engine) -> None:
    partition = engine.partitions[0]
    partition.progressed_at = time.monotonic() - STUCK_SECONDS - 1
    assert said(engine) == ("ready", True, True)  # nothing to do
    engine.watchdog._idle_since.clear()
    engine.watchdog.lag = {("toy-in", 0): 7}
    assert said(engine) == ("stuck", False, False)
    assert health_of(engine)["stuck"] == [0]
    partition.waiting_for_sink = True
    assert said(engine) == ("stuck", True, False)
    partition.waiting_for_sink = False
    partition.progressed_at = time.monotonic()
    assert said(engine) == ("ready", True, True)


def shown(name: str) -> dict[str, float]:
    """The samples of a gauge: the values of its labels -> the value."""
    found = next(each for each in REGISTRY.collect() if each.name == name)
    return {" ".join(sample.labels.values()): sample.value for sample in found.samples}


async def test_gauges_of_partitions_that_are_gone_are_zero(engine: Engine) -> None:
    """Another worker shows them now: a figure that stays would be counted twice, and its alert would never end."""
    engine.watchdog.lag = {("toy-in", 0): 7}
    engine.watchdog._topics = ["toy-in"]
    engine.watchdog._publish_lag()
    assert shown("chat4all_lag_records")["toy toy-in"] == 7
    engine.watchdog.lag = {}
    engine.watchdog._publish_lag()
    assert shown("chat4all_lag_records")["toy toy-in"] == 0

    engine.partitions.clear()
    engine._running = set()
    engine.stage = Track(state_ms=1000, observed={})
    metrics.TABLE_OLDEST_SECONDS.labels("track", "timelines").set(99)
    measure_tables(engine)
    assert shown("chat4all_table_oldest_seconds")["track timelines"] == 0


def test_the_disk_of_a_folder_is_measured_before_the_folder_exists(tmp_path: Path) -> None:
    measure_disk(["toy"], tmp_path / "not" / "yet")
    assert metrics.DATA_FREE.labels("toy")._value.get() == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.2)
    metrics.DATA_FREE.labels("toy").set(5)
    measure_disk(["toy"], tmp_path / ("x" * 300))  # no folder can have this name: the disk cannot be asked
    assert metrics.DATA_FREE.labels("toy")._value.get() == 5
