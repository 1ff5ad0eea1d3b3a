"""What is wrong with what was seen in a soak. Pure: samples in, findings out, each one sentence.

Memory is judged by the slope of Theil and Sen (the median of the slopes between all pairs of samples, which a few odd samples do not
move), after the first round: a first burst makes buffers and pools as large as every later one.
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
_DEATH = re.compile(r"(?m)^\S+ \S+ (?P<name>[A-Z0-9]+) DIED with (?P<code>-?\d+);.*$")
_PARTITION = re.compile(r"partition \d+")
_REASON = re.compile(r"""reason=(?P<quote>['"])(?P<reason>.*?)(?P=quote)""")


def ended(before: Mapping[str, Process], after: Mapping[str, Process], log: str) -> list[str]:
    """Processes that are not the same as before, and what the supervisor's log says of them; deaths in the log that left no trace."""
    deaths: Counter[tuple[str, str]] = Counter()
    for death in _DEATH.finditer(_ESCAPES.sub("", log)):
        reason = _REASON.findall(death[0])
        plain = _PARTITION.sub("partition N", reason[-1][1]) if reason else f"exit {death['code']}"
        deaths[death["name"].lower(), plain] += 1
    found = [f"{name} ended {times} x: {reason}" for (name, reason), times in sorted(deaths.items())]
    said = {name for name, _ in deaths}
    found += [
        f"{name} is another process than before: pid {process.pid} was {before[name].pid}, {process.restarts} restarts"
        for name, process in after.items()
        if name not in said and (process.pid, process.restarts) != (before[name].pid, before[name].restarts)
    ]
    return found + [f"{name} is gone from the stack" for name in before if name not in after]


def lagging(phase: Phase, sample: Sample, *, open_transaction: bool) -> list[str]:
    """What is not 0 where nothing has happened for a while: both words of each worker, and Kafka's own figures, where the group must
    stand at the end of what is decided; without an open transaction that is the end."""
    when = f"in phase {phase.number + 1} ({phase.kind}, {'a transaction open' if open_transaction else 'quiet'})"
    found = []
    for name, worker in sample.workers.items():
        if worker is None:
            found.append(f"{name} does not answer {when}")
        elif (worker.health_lag, worker.metrics_lag) != (0, 0):
            found.append(f"{name} says lag {worker.health_lag} in /health, {worker.metrics_lag} in /metrics {when}")
    if not sample.places:
        found.append(f"Kafka told no offsets {when}")
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
    """The slope of Theil and Sen; 0 for fewer than two different x."""
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2) if x2 != x1]
    return median(slopes) if slopes else 0.0


def growth(name: str, samples: Iterable[Sample]) -> float:
    """MiB a minute by which a process grew, less what its rows explain."""
    points = []
    for sample in samples:
        process, worker = sample.processes.get(name), sample.workers.get(name)
        if process is not None and process.unique is not None:
            rows = worker.rows if worker is not None else 0
            points.append((sample.at / 60, (process.unique - BYTES_A_ROW * rows) / MIB))
    return slope(points)


def warm(samples: Iterable[Sample], phases: Sequence[Phase]) -> list[Sample]:
    """The samples that memory is judged by: idle and steady phases after the first round; of a single round, all of them."""
    several = phases[-1].round > 0
    return [
        sample
        for sample in samples
        if (phase := phases[sample.phase]).kind != Kind.BURST and (phase.round > 0 or not several)
    ]


def grown(samples: Sequence[Sample], phases: Sequence[Phase]) -> list[str]:
    """Our own processes that grow; nothing is said of a run of a single round."""
    if phases[-1].round == 0:
        return []
    seen = warm(samples, phases)
    names = [name for name in samples[-1].processes if name not in SERVERS]
    return [
        f"{name} grows by {found:.1f} MiB a minute, less what its rows explain"
        for name in names
        if (found := growth(name, seen)) >= MOST_MIB_A_MINUTE
    ]


def undone(aborted: Sequence[str], called: Iterable[str | None], archived: Iterable[str]) -> list[str]:
    """Messages of aborted transactions that were taken for messages."""
    never = set(aborted)
    found = [f"{name} of an aborted transaction was sent" for name in sorted(never & {each or "" for each in called})]
    return found + [f"{name} of an aborted transaction is in PostgreSQL" for name in sorted(never & set(archived))]


def last_seconds(
    produced: Iterable[ProducedMessage],
    calls: Iterable[ProviderCall],
    phases: Iterable[Phase],
    prefix: Callable[[Phase], str],
) -> dict[int, float | None]:
    """How long the last message of each phase took from its acknowledgement (or commit) until a provider had it; None: never.
    `prefix` is how the ids of a phase's messages begin."""
    taken: dict[str, int] = {}
    for call in calls:
        if call.name is not None and call.provider_message_id is not None:
            taken[call.name.message_id] = min(call.at, taken.get(call.name.message_id, call.at))
    first: dict[str, int] = {}  # a repetition was taken long before
    for record in produced:
        first[record.message_id] = min(record.at, first.get(record.message_id, record.at))
    found: dict[int, float | None] = {}
    for phase in phases:
        of_phase = [(at, name) for name, at in first.items() if name.startswith(prefix(phase))]
        if of_phase:
            last, name = max(of_phase)
            found[phase.number] = max(0, taken[name] - last) / 1000 if name in taken else None
    return found
