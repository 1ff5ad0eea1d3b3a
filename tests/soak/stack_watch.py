"""Samples of a running stack at intervals: its processes, its workers, Kafka.

In: the folder of a stack. Out: Samples. Nothing is concluded here. What cannot be read now is None or missing.
"""

import contextlib
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import orjson
import psutil
from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # exported there, not in its __all__

from cli.dev_stack import kind_of
from pipelines.engine.kafka_names import app_id
from pipelines.stages import APPS, INNER, WORKERS
from schemas.catalog import TOPICS
from schemas.kafka_access import KafkaAccess
from stack.state import ServiceState, read_state
from tests.support.engine_harness import ask

TIMEOUT_SECONDS = 20.0
WHOLE = {"contacts"}  # topics that every worker reads whole, through no group (pipelines/engine/mirror.py)


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the stack. `unique` is its memory that no other process shares, in bytes; None if the process has ended."""

    pid: int
    restarts: int
    unique: int | None


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's own figures: its lag in /health and in /metrics, and the rows of its tables."""

    health_lag: int | None
    metrics_lag: int | None
    rows: int


@dataclass(frozen=True, slots=True)
class Place:
    """A source partition of a group in Kafka's own figures: committed offset, last stable offset, end offset."""

    committed: int
    stable: int
    end: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample. `at` is in seconds since the watch began; `phase` is the number of the phase."""

    at: float
    phase: int
    processes: Mapping[str, Process]
    workers: Mapping[str, Worker | None]
    places: Mapping[tuple[str, str, int], Place]  # stage, topic, partition


class Watch:
    """Takes samples in a thread of its own, and on each call of `look`. The owner sets `phase`."""

    def __init__(self, folder: Path, kafka: KafkaAccess, every_seconds: float) -> None:
        self.phase = 0
        self.samples: list[Sample] = []
        self._folder = folder
        self._every_seconds = every_seconds
        self._admin = AdminClient(kafka.settings("soak"))
        self._began = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def look(self, *, kafka: bool = True) -> Sample:
        """Takes one sample. Blocks for seconds at most; without Kafka's figures it is cheap."""
        at, phase = time.monotonic() - self._began, self.phase
        services = self._services()
        workers = {service.name: _worker(service) for service in services if kind_of(service.name) in WORKERS}
        processes = {service.name: _process(service) for service in services}
        return Sample(at, phase, processes, workers, self._places() if kafka else {})

    def _run(self) -> None:
        while not self._stopping.wait(self._every_seconds):
            self.samples.append(self.look(kafka=False))

    def _services(self) -> list[ServiceState]:
        state = read_state(self._folder)
        return state.services if state else []

    def _places(self) -> dict[tuple[str, str, int], Place]:
        sources = {
            (app, topic, number)
            for topic, known in self._admin.list_topics(timeout=TIMEOUT_SECONDS).topics.items()
            if topic in TOPICS and topic not in WHOLE
            for app in {_app_of(stage) for stage in TOPICS[topic].consumers}
            if not (app == "core" and topic in INNER)
            for number in known.partitions
        }
        wanted = {TopicPartition(topic, number) for _, topic, number in sources}
        stable, end = (
            self._ends(wanted, IsolationLevel.READ_COMMITTED),
            self._ends(wanted, IsolationLevel.READ_UNCOMMITTED),
        )
        committed = {app: self._committed(app) for app in APPS}
        return {
            (app, topic, number): Place(
                committed[app].get((topic, number), 0), stable[topic, number], end[topic, number]
            )
            for app, topic, number in sorted(sources)
        }

    def _ends(self, wanted: set[TopicPartition], isolation: IsolationLevel) -> dict[tuple[str, int], int]:
        latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # confluent-kafka does not annotate it
        asked: Mapping[TopicPartition, Future[Any]] = self._admin.list_offsets(
            dict.fromkeys(wanted, latest), isolation_level=isolation, request_timeout=TIMEOUT_SECONDS
        )
        return {(tp.topic, tp.partition): future.result(TIMEOUT_SECONDS).offset for tp, future in asked.items()}

    def _committed(self, app: str) -> dict[tuple[str, int], int]:
        group = app_id(app)
        asked = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group]
        return {(tp.topic, tp.partition): max(0, tp.offset) for tp in asked.result(TIMEOUT_SECONDS).topic_partitions}


def _app_of(stage: str) -> str:
    """The app of a stage, which is its consumer group."""
    return next(app for app, stages in APPS.items() if stage in stages)


def _process(service: ServiceState) -> Process:
    unique = None
    with contextlib.suppress(psutil.Error):
        if service.pid:
            unique = psutil.Process(service.pid).memory_full_info().uss
    return Process(service.pid, service.restarts, unique)


def _worker(service: ServiceState) -> Worker | None:
    try:
        health = ask(service.parts["probes"], "/health")
        with urlopen(f"{service.parts['probes']}/metrics", timeout=TIMEOUT_SECONDS) as answer:
            lines = answer.read().decode().splitlines()
    except (OSError, orjson.JSONDecodeError):
        return None
    lags = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("chat4all_lag_records{")]
    return Worker(health.get("lag"), int(sum(lags)) if lags else None, sum(health.get("rows", {}).values()))
