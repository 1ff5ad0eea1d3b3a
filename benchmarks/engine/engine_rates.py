"""One run of one contender: started with a new group, sampled until everything is committed, then verified and timed."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engine.bench_topics import PARTITIONS, Topics
from benchmarks.engine.contenders import CONTENDERS, Contender
from benchmarks.engine.machine import Process
from benchmarks.engine.task import Task
from benchmarks.engine.timeline import Pace, Sample, pace
from benchmarks.engine.verify import Work, check

SAMPLE_SECONDS = 0.05
QUIET_SECONDS = 2.0  # without a commit before the output is checked
GIVE_UP_SECONDS = 60.0  # without a commit before the run is ended
TABLES = ("seen", "sequences")


class WrongWork(Exception):
    """A contender did not do the job; the sentence says what was wrong."""


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a run. Rates count source records, repetitions included."""

    per_second: float
    slowest_share: float | None
    busy: float  # share of its core
    cpu_us: float  # CPU time a record, microseconds
    per_transaction: float | None  # outputs a transaction of one partition
    seconds: float


@dataclass(frozen=True, slots=True)
class Source:
    """A filled topic."""

    topic: str
    records: int
    expected: int  # outputs


def run(name: str, number: int, source: Source, topics: Topics, folder: Path) -> Run:
    """One run, from start to verdict; blocks until it is over. Raises Unavailable, or WrongWork."""
    contender = CONTENDERS[name]
    group = f"chat4all-bench-{name}-{number}"
    place = folder / group
    place.mkdir(parents=True)
    task = Task(topics.kafka_url, source.topic, f"{group}-out", group, PARTITIONS, place, contender.turn_records)
    try:
        return _run(contender, task, source, topics)
    finally:
        topics.delete(topics.named(group))
        shutil.rmtree(place, ignore_errors=True)


def _run(contender: Contender, task: Task, source: Source, topics: Topics) -> Run:
    command = contender.command(task)
    topics.create(task.out)
    if not contender.makes_changelogs:
        topics.create(*(task.changelog(table) for table in TABLES), compact=True)
    process = Process(command, contender.environment(task), task.folder / "output.log")
    try:
        samples, work = _follow(process, task, source, topics)
    finally:
        process.stop()
    faults = work.faults(source.expected)
    rows = sum(
        sum(topics.ends(changelog).values()) for changelog in topics.named(task.group) if "changelog" in changelog
    )
    if rows < source.expected:
        faults.append(f"{rows} changelog records for {source.expected} messages")
    if faults:
        raise WrongWork(f"{', '.join(faults)}; its log ends: {process.output()[-600:]}")
    return _judged(pace(samples, work.offsets), samples[-1], source)


def _follow(process: Process, task: Task, source: Source, topics: Topics) -> tuple[list[Sample], Work]:
    """Samples until everything is committed, or nothing has been committed for GIVE_UP_SECONDS; and the check of the output."""
    samples: list[Sample] = []
    moved_at, checked_at, work = time.monotonic(), 0.0, Work()
    while True:
        began = time.monotonic()
        ends = topics.ends(task.out)
        if not samples or samples[-1].ends != ends:
            moved_at = began
        samples.append(Sample(began, ends, process.cpu_seconds()))
        quiet = began - moved_at
        if quiet > QUIET_SECONDS and checked_at < moved_at and sum(ends.values()) >= source.expected:
            work, checked_at = check(topics.read(task.out)), began
            if work.count >= source.expected:
                return samples, work
        if process.ended or quiet > GIVE_UP_SECONDS:
            return samples, check(topics.read(task.out))
        time.sleep(max(0.0, SAMPLE_SECONDS - (time.monotonic() - began)))


def _judged(found: Pace, last: Sample, source: Source) -> Run:
    controls = sum(last.ends.values()) - source.expected
    return Run(
        per_second=found.per_second * source.records / source.expected,
        slowest_share=found.slowest_share,
        busy=found.busy,
        cpu_us=found.cpu_us * source.expected / source.records,
        per_transaction=source.expected / controls if controls else None,
        seconds=found.seconds,
    )
