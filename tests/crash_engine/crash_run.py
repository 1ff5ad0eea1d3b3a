"""One crash run, from the start to the verdict.

Enters: minutes, seed, rate. Leaves: a Report. Faults come at random times, some during another one. To each fault belongs the longest time
without progress of a partition after it. Folder and processes are removed at the end; only after a finding the logs stay, and the report
says where.
"""

import math
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from confluent_kafka import Consumer, TopicPartition

from schemas.kafka_access import KafkaAccess
from tests.crash_engine.crash_progress import Gap, Progress
from tests.crash_engine.fault_injection import KINDS, Fault, World, kinds
from tests.crash_engine.findings import Verdict, compare_tables, examine
from tests.crash_engine.traffic import Traffic
from tests.support.engine_harness import REPOSITORY, Toy, ask

ON_TOP = 0.25  # share of faults that come before the system has recovered from the last one
HURRIED = (0.5, 8.0)  # seconds to such a fault
QUIET = (1.0, 5.0)  # seconds from the recovery to any other fault
JOIN_SECONDS = 5.0  # in which a worker that was started has joined the group
RECOVERY_SECONDS = 60.0  # the longest wait for a recovery
DRAIN_SECONDS = 120.0
Say = Callable[[str], None]
TWO_AT_ONCE = "two at once"
_EARLY = 1.0  # a gap begins with the last progress, which was a little before its fault


class Standstill(NamedTuple):
    """The longest time without progress of a partition after a fault, the kind that it counts under, and how long Kafka gave no answer in
    it."""

    kind: str
    seconds: float
    silent: float


@dataclass
class Report:
    """What happened in a run, and whether the results are right."""

    began: float
    faults: list[Fault]
    gaps: list[Gap]
    verdict: Verdict
    drained_seconds: float
    silences: list[Gap]  # of Kafka
    ends: Counter[str] = field(default_factory=Counter)  # the reasons of workers that ended themselves
    logs: Path | None = None

    def after(self, number: int) -> Standstill:
        fault = self.faults[number]
        gaps = [gap for gap in self.gaps if self._cause(gap) == number]
        if not gaps:
            return Standstill(fault.kind, 0.0, 0.0)
        longest = max(gaps, key=lambda gap: gap.seconds)
        alone = all(not longest.start + _EARLY < other.at < longest.end for other in self.faults if other != fault)
        silent = sum(max(0.0, min(s.end, longest.end) - max(s.start, longest.start)) for s in self.silences)
        return Standstill(fault.kind if alone else TWO_AT_ONCE, longest.seconds, silent)

    def _cause(self, gap: Gap) -> int | None:
        """The latest fault when the gap began."""
        before = [number for number, fault in enumerate(self.faults) if fault.at <= gap.start + _EARLY]
        return before[-1] if before else None

    def standstills(self) -> dict[str, list[Standstill]]:
        """The time without progress after each fault, by its kind."""
        found: dict[str, list[Standstill]] = {}
        for number in range(len(self.faults)):
            after = self.after(number)
            found.setdefault(after.kind, []).append(after)
        return found

    def lines(self) -> list[str]:
        verdict = self.verdict
        found = ["", "   at s  fault                        without progress   Kafka silent"]
        for number, fault in enumerate(self.faults):
            kind, seconds, silent = self.after(number)
            note = f"  {kind}" if kind != fault.kind else ""
            at = fault.at - self.began
            found.append(f"{at:7.1f}  {fault.kind:16} {fault.target:9} {seconds:15.1f} s {silent:12.1f} s{note}")
        for kind, each in sorted(self.standstills().items()):
            longest = max(each, key=lambda after: after.seconds)
            found.append(f"longest after {kind}: {longest.seconds:.1f} s, of {len(each)}")
        found += [f"{times} x a worker ended itself: {reason}" for reason, times in self.ends.most_common()]
        found.append(f"drained {self.drained_seconds:.1f} s after the last fault")
        found.append(
            f"{verdict.messages} messages in {verdict.records} records: lost {verdict.lost}, doubled {verdict.doubled}, "
            f"sequence gaps {verdict.gaps}, out of order {verdict.unordered}, tables unlike their changelog "
            f"{verdict.tables}, intents left {verdict.intents}"
        )
        found += [f"FOUND: {finding}" for finding in verdict.findings]
        return found + ([f"logs: {self.logs}"] if self.logs else [])


def run(*, minutes: float, seed: int, rate: int = 1500, say: Say = print) -> Report:
    """Runs for so many minutes, then drains, reads back and compares."""
    folder = REPOSITORY / ".chat4all" / f"crash-engine-{seed}-{time.time_ns()}"
    folder.mkdir(parents=True)
    chance = random.Random(seed)  # noqa: S311  # a seed makes the faults repeatable
    world = World(folder, chance)
    clean = False
    try:
        world.start()
        report = _storm(
            world, chance, minutes, Traffic(world.toy.kafka_url, world.toy.sources, seed=seed, rate=rate), say
        )
        report.ends = _ends(folder)
        clean = not report.verdict.findings
        report.logs = None if clean else folder.relative_to(REPOSITORY)
        return report
    finally:
        world.stop()
        if clean:
            shutil.rmtree(folder, ignore_errors=True)


def _storm(world: World, chance: random.Random, minutes: float, traffic: Traffic, say: Say) -> Report:
    toy = world.toy
    progress = Progress(toy.kafka_url, toy.name, toy.sources, toy.partitions)
    progress.start()
    traffic.start()
    began = time.monotonic()
    faults = _strike(world, progress, chance, began + 60 * minutes, say)
    world.calm()
    calm = time.monotonic()
    traffic.stop()
    drained = _drain(world, progress)
    seconds = time.monotonic() - calm
    gaps = progress.gaps() if not drained else [gap for gap in progress.gaps() if gap.start < calm]
    progress.stop()
    say(f"drained: {drained}; reading back")
    verdict = examine(toy, traffic.acknowledged)
    verdict.find("records of the input failed", traffic.failures)
    if not drained:
        _keep_tasks(world)
        verdict.findings.append(f"not drained {DRAIN_SECONDS:.0f} s after the last fault")
    compare_tables(toy, world.urls(), verdict, "in the workers")
    compare_tables(toy, [_restarted(world)], verdict, "after a restart")
    return Report(began, faults, gaps, verdict, seconds, progress.silences())


def _strike(world: World, progress: Progress, chance: random.Random, end: float, say: Say) -> list[Fault]:
    """Causes faults until the end; on a slow machine a little longer, so that a short run has every kind."""
    faults: list[Fault] = []
    for kind in kinds(chance):
        _pause(world, progress, chance, end)
        if time.monotonic() >= end and {fault.kind for fault in faults} == set(KINDS):
            break
        fault = world.strike(kind)
        if fault is not None:
            faults.append(fault)
            say(f"{end - fault.at:7.1f} s left: {fault.kind} {fault.target}")
    return faults


def _pause(world: World, progress: Progress, chance: random.Random, end: float) -> None:
    """Waits for the next fault: until the system has recovered from the last one and a moment longer, or less."""
    begun = time.monotonic()
    hurried = begun + chance.uniform(*HURRIED) if chance.random() < ON_TOP else math.inf
    quiet = chance.uniform(*QUIET)
    whole = math.inf  # since when all processes run
    end = max(end, begun + 2 * JOIN_SECONDS)
    while (now := time.monotonic()) < min(end, hurried, begun + RECOVERY_SECONDS):
        world.keep_up()
        whole = min(whole, now) if world.is_whole() else math.inf
        if progress.moved_since(whole + JOIN_SECONDS):
            _keep_up(world, min(end, now + quiet))
            return
        time.sleep(0.05)


def _keep_up(world: World, until: float) -> None:
    while time.monotonic() < until:
        world.keep_up()
        time.sleep(0.05)


def _drain(world: World, progress: Progress) -> bool:
    """Waits until the group is at the end of the sources and no intent is open; False when that takes too long."""
    ends = _ends_of(world.toy)
    deadline = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < deadline:
        world.keep_up()  # a worker may end itself late
        if progress.positions() == ends and _open_rows(world.probes()) == 0:
            return True
        time.sleep(0.2)
    return False


def _ends_of(toy: Toy) -> dict[int, int]:
    consumer = Consumer({**KafkaAccess(toy.kafka_url).settings("test"), "group.id": "reader"})
    found: dict[int, int] = {}
    for source in toy.sources:
        for number in range(toy.partitions):
            end = consumer.get_watermark_offsets(TopicPartition(source, number), timeout=10)[1]
            found[number] = found.get(number, 0) + end
    consumer.close()
    return found


def _open_rows(urls: Sequence[str]) -> int | None:
    """Rows of table `open` in all workers; None while one does not answer or owns nothing yet."""
    try:
        return sum(int(ask(url, "/health")["rows"]["open"]) for url in urls)
    except OSError:
        return None


def _keep_tasks(world: World) -> None:
    """Writes where the tasks of each worker are, and its health, beside its log."""
    for worker in world.workers:
        found = {path: _answer(worker.service.url, path) for path in ("/tasks/", "/partitions/")}
        found["/health"] = _answer(worker.service.parts["probes"], "/health")
        kept = worker.service.folder / "stands-still.json"
        kept.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))


def _answer(url: str, path: str) -> Any:
    try:
        return ask(url, path)
    except OSError as error:
        return str(error)


def _restarted(world: World) -> str:
    """Ends every worker, starts one, and waits until it owns every partition; returns its URL."""
    for worker in world.workers:
        worker.stop(timeout_seconds=30)
    first = world.workers[0]
    first.start()
    first.wait(120)
    return first.service.url


def _ends(folder: Path) -> Counter[str]:
    """The reasons with which workers ended themselves, with N for each number."""
    reasons: Counter[str] = Counter()
    for log in folder.glob("worker-*/worker-*.log"):
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if "worker ends" in line:
                plain = re.sub(r"\x1b\[[0-9;]*m", "", line).partition("reason=")[2]
                reasons[re.sub(r"\d+", "N", plain).strip()[:160]] += 1
    return reasons
