"""One attack, from start to verdict.

In: a seed, a size, perhaps a worker's views. Out: a Report with its findings. In the end all processes have ended and the folder is gone;
after a finding the log stays, and the report says where.
"""

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.attack.attacked_gateway import Memory, Target, running
from tests.attack.attackers import Plan, plan_text
from tests.attack.good import PATH, Good, webhook
from tests.attack.sources import HUNG_UP, UNSIGNED, line, request
from tests.support.engine_harness import REPOSITORY

MEMORY_MIB = 250.0
RATIO = 0.7
REFUSED_MS = 1.0
MOST_LINES = 500
TEXT = "secret-words"  # in every body that contains a text
Say = Callable[[str], None]
# Attacks that may end without any answer: their waiting connections are closed for new ones.
UNANSWERED = {"silent connections", "slow headers", "slow bodies"}
# The allowed answers to each attack; HUNG_UP is a connection that was closed without an answer.
REFUSED = {HUNG_UP, 400, 401, 404, 405, 408, 411, 413, 415, 417, 429, 431, 503}
ALLOWED = {
    "gzip bombs": {HUNG_UP, 415, 429},
    "deflate bombs": {HUNG_UP, 415, 429},
    "replayed": {HUNG_UP, 200, 429},
    "re-serialised": {HUNG_UP, 401, 429},
    "odd bodies": {200, 403, 414, *REFUSED},
}


class Size(NamedTuple):
    """The size of an attack."""

    undisturbed_seconds: float
    refused_posts: int
    attackers: dict[str, float]  # fields of Plan that differ from a full attack
    asserts_rate: bool


LONG = Size(15.0, 5000, {}, True)
SHORT = Size(
    3.0,
    300,
    {
        "huge": 1,
        "bombs": 10,
        "slow": 40,
        "silent": 600,
        "posts": 1000,
        "held": 60,
        "pipelines": 4,
        "hold_seconds": 12.0,
    },
    False,
)


class Views(NamedTuple):
    """A worker's views; the caller starts the worker."""

    url: str
    token: str = ""


@dataclass
class Report:
    """The figures and the findings."""

    before_mib: float
    most_mib: float
    undisturbed: float
    attacked: float
    good_refused: int
    slowest: float
    log_lines: int
    refused_ms: float
    ways: list[dict[str, Any]] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    log: Path | None = None

    @property
    def ratio(self) -> float:
        return self.attacked / self.undisturbed if self.undisturbed else 0.0

    @property
    def failures(self) -> int:
        return sum(int(way["statuses"].get("500", 0)) for way in self.ways)

    @property
    def attempts(self) -> int:
        return sum(sum(way["statuses"].values()) for way in self.ways)

    def lines(self) -> list[str]:
        found = [f"{way['way']:34} {way['seconds']:6.1f} s  {_counted(way['statuses'])}" for way in self.ways]
        found += [
            f"memory of the gateway: {self.before_mib:.0f} MiB before, {self.most_mib:.0f} MiB at most (below {MEMORY_MIB:.0f})",
            f"good sender: {self.undisturbed:.1f} webhooks a second undisturbed, {self.attacked:.1f} under attack: {self.ratio:.2f}",
            f"good webhooks: {self.good_refused} not taken, slowest {self.slowest:.2f} s",
            f"CPU of the gateway for a refused request: {self.refused_ms:.2f} ms",
            f"answers 500: {self.failures}; log lines: {self.log_lines}",
        ]
        found += [f"FOUND: {finding}" for finding in self.findings] or ["OK: nothing found"]
        return found + ([f"log: {self.log}"] if self.log else [])


def run(*, seed: int, size: Size, views: Views | None = None, say: Say = print) -> Report:
    """Starts the target, attacks it, and judges the result."""
    folder = REPOSITORY / ".chat4all" / f"attack-{seed}-{time.time_ns()}"
    folder.mkdir(parents=True)
    try:
        with running(folder) as target:
            memory = Memory(target.process.pid)
            report = asyncio.run(_attack(target, memory, seed, size, say))
            if views is not None:
                report.findings += asyncio.run(attack_views(views, seed, size, say))
            memory.stop()
            _judge(report, target, size)
        if report.findings:
            kept = folder.with_suffix(".log")
            shutil.copy(target.log, kept)
            report.log = kept.relative_to(REPOSITORY)
        return report
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _attack(target: Target, memory: Memory, seed: int, size: Size, say: Say) -> Report:
    refused_ms = await _refused(target, size.refused_posts)
    good = Good(target.port, target.app_secret)
    good.start()
    await good.rate(1.0)  # warms up connections, topics and partitions
    undisturbed = await good.rate(size.undisturbed_seconds)
    before, refused = memory.now(), good.refused
    say(f"undisturbed: {undisturbed:.1f} webhooks a second, {before:.0f} MiB")
    plan = Plan(target.port, PATH, seed, target.app_secret, webhook("replayed").decode(), **size.attackers)  # type: ignore[arg-type]  # numbers only
    began, taken = time.monotonic(), good.taken
    ways = await _attackers(plan, say)
    attacked = (good.taken - taken) / (time.monotonic() - began)
    await good.stop()
    return Report(
        before,
        memory.most,
        undisturbed,
        attacked,
        good.refused - refused,
        good.slowest,
        _lines_in(target.log),
        refused_ms,
        ways,
    )


async def _refused(target: Target, count: int) -> float:
    """CPU milliseconds of the gateway for one unsigned post, measured over many on one connection."""
    body = b'{"text": "secret-words"}' * 40
    async with line(target.port, 0) as its:
        began = target.cpu_seconds()
        for _ in range(count):
            await its.send(request(PATH, {"X-Hub-Signature-256": UNSIGNED}, body))
            if await its.status(10.0) not in (401, 429):
                raise RuntimeError("an unsigned post is not refused")
        return 1000 * (target.cpu_seconds() - began) / count


async def _attackers(plan: Plan, say: Say) -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.attack.attackers",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
    )
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("no pipes to the attackers")
    process.stdin.write(plan_text(plan).encode())
    process.stdin.close()
    ways = []
    async for report in process.stdout:
        ways.append(json.loads(report))
        say(f"{ways[-1]['way']}: {_counted(ways[-1]['statuses'])}")
    if await process.wait():
        raise RuntimeError("the attackers failed")
    return ways


async def attack_views(views: Views, seed: int, size: Size, say: Say) -> list[str]:
    """The same attackers against a worker's views, which must answer as before, and never with 500."""
    parts = urlsplit(views.url)
    headers = {"Authorization": f"Bearer {views.token}"} if views.token else {}
    port, path = parts.port or 80, parts.path or "/"

    async def status() -> int:
        async with line(port, 0) as its:
            await its.send(request(path, headers, method="GET"))
            return await its.status(10.0)

    before = await status()
    if before == HUNG_UP:
        return ["views: no answer before the attack"]
    plan = Plan(port, path, seed, headers=headers, **size.attackers)  # type: ignore[arg-type]  # numbers only
    ways = await _attackers(plan, say)
    found = [f"views, {way['way']}: answered 500" for way in ways if way["statuses"].get("500")]
    after = await status()
    return found if after == before else [*found, f"views answered {before} before and {after} after"]


def _judge(report: Report, target: Target, size: Size) -> None:
    found = report.findings
    if target.process.poll() is not None:
        found.append("the gateway ended")
    if report.most_mib >= MEMORY_MIB:
        found.append(f"the gateway had {report.most_mib:.0f} MiB")
    if not report.attacked or (size.asserts_rate and report.ratio < RATIO):
        found.append(f"the good sender had {report.ratio:.2f} of its rate")
    found += [finding for way in report.ways for finding in odd_answers(way)]
    if size.asserts_rate and report.refused_ms >= REFUSED_MS:
        found.append(f"a refused request took {report.refused_ms:.2f} ms of CPU")
    if report.log_lines > MOST_LINES:
        found.append(f"the gateway logged {report.log_lines} lines")
    log = target.log.read_text(encoding="utf-8", errors="replace")
    found += ["a log line holds a secret" for secret in target.secrets if secret in log]
    found += ["a log line holds a text"] * (TEXT in log)
    found += ["a log line holds a traceback"] * ("Traceback" in log)


def odd_answers(way: dict[str, Any]) -> list[str]:
    """The findings about the answers to one attack. No answer at all is a finding too, because nothing was attacked then."""
    statuses = {int(status) for status in way["statuses"]}
    odd = statuses - ALLOWED.get(way["way"], REFUSED)
    found = [f"{way['way']}: answered {sorted(odd)}"] if odd else []
    if not statuses - {HUNG_UP} and way["way"] not in UNANSWERED:
        found.append(f"{way['way']}: never answered")
    return found


def _lines_in(log: Path) -> int:
    return log.read_bytes().count(b"\n")


def _counted(statuses: dict[str, int]) -> str:
    named = {("hung up" if status == str(HUNG_UP) else status): count for status, count in statuses.items()}
    return ", ".join(f"{count} x {status}" for status, count in sorted(named.items()))
