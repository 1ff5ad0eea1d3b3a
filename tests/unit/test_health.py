"""/health of an engine that runs, restores or is stuck. A liveness probe must end a worker only if a restart helps."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.engine.restore import RestoreProgress
from pipelines.engine.worker import Engine
from pipelines.health import health_of
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
