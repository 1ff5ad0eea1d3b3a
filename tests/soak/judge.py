"""The findings of a soak. Pure: samples in, findings out, one sentence each.

Memory is judged by the Theil-Sen slope: the median of the slopes between all pairs of samples, on which a few outliers have no effect. The
first round does not count: its burst makes buffers and pools as large as every later one.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from statistics import median

from loadgen.evidence import ProducedMessage, ProviderCall
from stack.servers import SERVERS
from tests.soak.soak_scenario import Kind, Phase
from tests.soak.stack_watch import Process, Sample

MIB = 2**20
BYTES_A_ROW = 600  # a row of a table in memory; measured: 390 in send, 480 in track, 830 in match
MOST_MIB_A_MINUTE = 1.0
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_END = re.compile(r"(?m)^\S+ \S+ (?P<name>[A-Z0-9]+) DIED with (?P<code>-?\d+);.*$")
_PARTITION = re.compile(r"partition \d+")
_REASON = re.compile(r"""reason=(?P<quote>['"])(?P<reason>.*?)(?P=quote)""")


def ended(before: Mapping[str, Process], after: Mapping[str, Process], log: str) -> list[str]:
    """Processes that ended, with the reason from the supervisor's log; and processes that are not the same as before."""
    ends: Counter[tuple[str, str]] = Counter()
    for end in _END.finditer(_ESCAPES.sub("", log)):
        reason = _REASON.findall(end[0])
        plain = _PARTITION.sub("partition N", reason[-1][1]) if reason else f"exit {end['code']}"
        ends[end["name"].lower(), plain] += 1
    found = [f"{name} ended {times} x: {reason}" for (name, reason), times in sorted(ends.items())]
    logged = {name for name, _ in ends}
    found += [
        f"{name} is another process than before: pid {process.pid} was {before[name].pid}, {process.restarts} restarts"
        for name, process in after.items()
        if name not in logged and (process.pid, process.restarts) != (before[name].pid, before[name].restarts)
    ]
    return found + [f"{name} is gone from the stack" for name in before if name not in after]


def lagging(phase: Phase, sample: Sample, *, open_transaction: bool) -> list[str]:
    """Lag that is not 0 although nothing has happened for a while: the two figures of each worker, and Kafka's own. In Kafka, the group
    must have committed the last stable offset; without an open transaction, that is the end."""
    when = f"in phase {phase.number + 1} ({phase.kind}, {'a transaction open' if open_transaction else 'quiet'})"
    found = []
    for name, worker in sample.workers.items():
        if worker is None:
            found.append(f"{name} does not answer {when}")
        elif (worker.health_lag, worker.metrics_lag) != (0, 0):
            found.append(f"{name} says lag {worker.health_lag} in /health, {worker.metrics_lag} in /metrics {when}")
    if not sample.places:
        found.append(f"Kafka returned no offsets {when}")
    behind: dict[str, list[str]] = {}
    for (stage, topic, number), place in sample.places.items():
        wanted = place.stable if open_transaction else place.end
        if place.committed != wanted:
            behind.setdefault(stage, []).append(f"{topic}[{number}], {place.committed} of {wanted}")
    return found + [
        f"Kafka says that {stage} has not committed the end of {len(each)} partitions, as {each[0]} {when}"
        for stage, each in behind.items()
    ]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The Theil-Sen slope; 0 for fewer than two different x."""
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2) if x2 != x1]
    return median(slopes) if slopes else 0.0


def growth(name: str, samples: Iterable[Sample]) -> float:
    """The growth of a process in MiB a minute, without the growth of its table rows."""
    points = []
    for sample in samples:
        process, worker = sample.processes.get(name), sample.workers.get(name)
        if process is not None and process.unique is not None:
            rows = worker.rows if worker is not None else 0
            points.append((sample.at / 60, (process.unique - BYTES_A_ROW * rows) / MIB))
    return slope(points)


def warm(samples: Iterable[Sample], phases: Sequence[Phase]) -> list[Sample]:
    """The samples for judging memory: of idle and steady phases after the first round; if there is only one round, of that one."""
    several = phases[-1].round > 0
    return [
        sample
        for sample in samples
        if (phase := phases[sample.phase]).kind != Kind.BURST and (phase.round > 0 or not several)
    ]


def grown(samples: Sequence[Sample], phases: Sequence[Phase]) -> list[str]:
    """Our own processes whose memory grows. A run of a single round is not judged."""
    if phases[-1].round == 0:
        return []
    seen = warm(samples, phases)
    names = [name for name in samples[-1].processes if name not in SERVERS]
    return [
        f"{name} grows by {found:.1f} MiB a minute, less the growth of its rows"
        for name in names
        if (found := growth(name, seen)) >= MOST_MIB_A_MINUTE
    ]


def undone(aborted: Sequence[str], called: Iterable[str | None], archived: Iterable[str]) -> list[str]:
    """Messages of aborted transactions that were sent or archived."""
    never = set(aborted)
    found = [f"{name} of an aborted transaction was sent" for name in sorted(never & {each or "" for each in called})]
    return found + [f"{name} of an aborted transaction is in PostgreSQL" for name in sorted(never & set(archived))]


def last_seconds(
    produced: Iterable[ProducedMessage],
    calls: Iterable[ProviderCall],
    phases: Iterable[Phase],
    prefix: Callable[[Phase], str],
) -> dict[int, float | None]:
    """Seconds from the acknowledgement (or commit) of each phase's last message until a provider accepted it; None: never. `prefix` returns
    the beginning of the ids of a phase's messages."""
    taken: dict[str, int] = {}
    for call in calls:
        if call.name is not None and call.provider_message_id is not None:
            taken[call.name.message_id] = min(call.at, taken.get(call.name.message_id, call.at))
    first: dict[str, int] = {}  # for a duplicate, the first record counts
    for record in produced:
        first[record.message_id] = min(record.at, first.get(record.message_id, record.at))
    found: dict[int, float | None] = {}
    for phase in phases:
        of_phase = [(at, name) for name, at in first.items() if name.startswith(prefix(phase))]
        if of_phase:
            last, name = max(of_phase)
            found[phase.number] = max(0, taken[name] - last) / 1000 if name in taken else None
    return found
