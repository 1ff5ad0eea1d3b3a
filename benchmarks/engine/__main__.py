"""`python -m benchmarks.engine`: the engine compared with other ways to do the same job, in one run on this machine.

Enters: options. Leaves: benchmarks/engine.json (unless --trial) and a table. Kafka is started for the benchmark and deleted after it. Every
contender has one core to itself; Kafka and this process have the others. Runs of the contenders alternate, so that a machine that
slows down slows all of them. A contender whose output is wrong has no figure.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from benchmarks.engine import engine_report, job, latency, restore_rates
from benchmarks.engine.bench_topics import Topics
from benchmarks.engine.contenders import CONTENDERS, add_parent
from benchmarks.engine.engine_rates import Run, Source, WrongWork, run
from benchmarks.engine.engine_report import Measured
from benchmarks.engine.environments import Unavailable
from benchmarks.engine.machine import OTHERS, pinned
from benchmarks.engine.verify import expected_outputs
from schemas import benchmark
from stack import kafka_server
from stack.service import Child

PARTS = ("rates", "restore", "latency")
STORES = ("ours", "ours-rocksdb")
WITH_LATENCY = ("ours", "parent")
console = Console()


def main() -> None:
    options = _options()
    measured = Measured()
    with pinned(OTHERS), _kafka() as (topics, folder):
        topics.create_dead_letters()
        if "rates" in options.parts:
            _rates(options, topics, folder, measured)
        if "restore" in options.parts:
            _restores(options, topics, folder, measured)
        if "latency" in options.parts:
            for name in [name for name in WITH_LATENCY if name in options.contenders]:
                measured.lone_ms[name] = latency.lone_records(name, options.lone, topics, folder)
    figures = engine_report.figures(measured)
    console.print(benchmark.table(figures))
    if not options.trial:
        path = benchmark.write("engine", " ".join(["python -m benchmarks.engine", *sys.argv[1:]]), figures)
        console.print(f"written to {path.relative_to(Path.cwd())}")
    if "rates" in options.parts and "ours" in options.contenders and "ours" not in measured.runs:
        raise SystemExit("the engine itself has no figure: no run of it did the job")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description="Benchmark of the engine.")
    parser.add_argument("--records", type=int, default=500_000, help="source records")
    parser.add_argument("--slow-records", type=int, default=100_000, help="source records for slow contenders")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--runs", type=int, default=3, help="runs of each contender; the median counts")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--rows", type=int, default=10_000_000, help="live rows to restore")
    parser.add_argument("--faust-rows", type=int, default=100_000, help="rows for Faust's own recovery")
    parser.add_argument("--lone", type=int, default=500, help="lone records")
    parser.add_argument("--parent", type=Path, help="a checkout of another commit, whose engine is a contender too")
    parser.add_argument("--trial", action="store_true", help="do not write benchmarks/engine.json")
    options = parser.parse_args()
    if options.parent:
        add_parent(options.parent)
        options.contenders.insert(1, "parent")  # next to ours, so that the two compared runs follow each other
    return options


@contextmanager
def _kafka() -> Iterator[tuple[Topics, Path]]:
    folder = Path(".chat4all") / f"bench-engine-{os.getpid()}"
    child = Child(kafka_server.service(folder / "kafka", heap="2g", short_lived=False))
    try:
        child.start()
        child.wait()
        yield Topics(child.service.url), folder
    finally:
        child.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _rates(options: argparse.Namespace, topics: Topics, folder: Path, measured: Measured) -> None:
    sources = {}
    for count in {options.records, min(options.records, options.slow_records)}:
        sources[count] = Source(f"bench-in-{count}", count, expected_outputs(count))
        topics.create(sources[count].topic)
        topics.fill(sources[count].topic, job.records(count))
    console.print(f"filled: {', '.join(f'{count:,} records' for count in sources)}")
    warm_up = sources[min(options.records, options.slow_records)]
    run("transactional-loop", 0, warm_up, topics, folder)  # warms Kafka's JVM up
    left_out: set[str] = set()
    for number in range(1, options.runs + 1):
        for name in options.contenders:
            slow = CONTENDERS[name].slow
            source = sources[min(options.records, options.slow_records) if slow else options.records]
            if name in left_out:
                continue
            try:
                found = run(name, number, source, topics, folder)
            except Unavailable as reason:
                console.print(f"{name}: left out, {reason}")
                left_out.add(name)
            except WrongWork as reason:
                console.print(f"{name}, run {number}: wrong work, not timed: {reason}")
            else:
                measured.runs.setdefault(name, []).append(found)
                console.print(f"{name}, run {number}: {_line(found)}")


def _line(found: Run) -> str:
    slowest = "" if found.slowest_share is None else f", slowest second {found.slowest_share:.2f} of the median"
    return (
        f"{found.per_second:,.0f} records/s in {found.seconds:.1f} s, {found.busy:.0%} of its core, "
        f"{found.cpu_us:.1f} us of CPU a record{slowest}"
    )


def _restores(options: argparse.Namespace, topics: Topics, folder: Path, measured: Measured) -> None:
    empty, full = restore_rates.prepare(0, topics), restore_rates.prepare(options.rows, topics)
    for name in [name for name in STORES if name in options.contenders]:
        try:
            measured.empty[name] = restore_rates.restore(name, empty, topics, folder)
            measured.restored[name] = [restore_rates.restore(name, full, topics, folder) for _ in range(options.runs)]
        except Unavailable as reason:
            console.print(f"restore of {name}: left out, {reason}")
    if "faust" in options.contenders:
        few = restore_rates.prepare(options.faust_rows, topics)
        measured.restored["faust"] = [restore_rates.restore_faust(few, topics, folder) for _ in range(options.runs)]


if __name__ == "__main__":
    main()
