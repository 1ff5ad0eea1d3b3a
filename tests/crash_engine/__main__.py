"""The crash harness of the engine: `python -m tests.crash_engine --minutes 10 --seed 1`; exits 1 when anything is wrong.

A stage with two sources, timers and calls runs on its own Kafka in three workers, two with tables in memory and one with tables on
disk. Workers and broker are killed, stopped and frozen at random; then everything is read back: lost 0, doubled 0, gaps 0, order
kept, tables as their changelogs, no intent left.
"""

import argparse
import statistics
import sys
from collections.abc import Iterable

from schemas import benchmark
from tests.crash_engine.crash_run import Report, run

BENCHMARK_MINUTES = 5.0  # a shorter run is a check, not a measurement


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash_engine", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=int, default=1500, help="records per second")
    given = parser.parse_args()
    report = run(minutes=given.minutes, seed=given.seed, rate=given.rate)
    print("\n".join(report.lines()))
    if given.minutes >= BENCHMARK_MINUTES:
        command = f"make crash-engine MINUTES={given.minutes:g} SEED={given.seed}"
        print(f"written: {benchmark.write('crash_engine', command, figures(report)).name}")
    sys.exit(1 if report.verdict.findings else 0)


def figures(report: Report) -> dict[str, benchmark.Figure]:
    """The run as figures; the target is set for the loss of one worker of three."""
    verdict = report.verdict
    found = {
        "messages": benchmark.Figure(verdict.messages, "messages"),
        "records, with duplicates": benchmark.Figure(verdict.records, "records"),
        "lost": benchmark.Figure(verdict.lost, "messages", 0),
        "doubled": benchmark.Figure(verdict.doubled, "messages", 0),
        "sequence gaps": benchmark.Figure(verdict.gaps, "keys", 0),
        "out of order": benchmark.Figure(verdict.unordered, "messages", 0),
        "tables unlike their changelog": benchmark.Figure(verdict.tables, "table partitions", 0),
        "intents left": benchmark.Figure(verdict.intents, "rows", 0),
        "drained after the last fault": benchmark.Figure(round(report.drained_seconds, 1), "s"),
    }
    for kind, each in sorted(report.standstills().items()):
        found[f"faults: {kind}"] = benchmark.Figure(len(each), "faults")
        target = 8.0 if kind == "SIGKILL" else None
        found[f"longest without progress: {kind}"] = benchmark.Figure(_longest(a.seconds for a in each), "s", target)
        half = statistics.median(a.seconds for a in each)
        found[f"half of them within: {kind}"] = benchmark.Figure(round(half, 1), "s")
        if "broker" in kind:
            own = _longest(a.seconds - a.silent for a in each)
            found[f"longest without progress: {kind}, while Kafka answered"] = benchmark.Figure(own, "s", 4.0)
    return found


def _longest(seconds: Iterable[float]) -> float:
    return round(max(seconds), 1)


if __name__ == "__main__":
    main()
