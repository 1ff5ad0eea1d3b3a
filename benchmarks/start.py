"""`python -m benchmarks.start`: how long the development stack and the demo take to start and to stop, and how much CPU.

Enters: an idle machine. Leaves: benchmarks/start.json and a table with medians of RUNS runs of the commands that a user types. All
downloads and caches are made before the first run. CPU seconds are those of the whole machine during a run, so nothing else may run.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil
from rich.console import Console

from schemas import benchmark
from schemas.benchmark import Figure
from schemas.environment import foreign
from stack import aot_cache, kafka_server
from stack.service import Child

RUNS = 3
UP_SECONDS, DEMO_SECONDS = 9.0, 28.0  # targets
console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.start", description="Benchmark of starting and stopping the stack."
    )
    parser.add_argument("--runs", type=int, default=RUNS, help="runs of each; the median counts")
    parser.add_argument("--trial", action="store_true", help="do not write benchmarks/start.json")
    options = parser.parse_args()
    kafka_server.make_ready(console.print)
    figures = _stack(options.runs) | _demo(options.runs) | _kafka(options.runs)
    console.print(benchmark.table(figures))
    if not options.trial:
        console.print(f"written to {benchmark.write('start', 'make bench-start', figures).name}")


def _stack(runs: int) -> dict[str, Figure]:
    name = f"bench-start-{os.getpid()}"
    ups, downs = [], []
    for _ in range(runs):
        try:
            ups.append(_measured(lambda: _chat4all("up", "--name", name)))
        finally:
            downs.append(_measured(lambda: _chat4all("down", "--name", name)))
    return {
        "up": Figure(_seconds(ups), "s, chat4all up from cache", UP_SECONDS),
        "up_cpu": Figure(_cpu(ups), "s of CPU, the whole machine"),
        "down": Figure(_seconds(downs), "s, chat4all down"),
    }


def _demo(runs: int) -> dict[str, Figure]:
    demos = [_measured(lambda: _chat4all("demo")) for _ in range(runs)]
    return {
        "demo": Figure(_seconds(demos), "s, chat4all demo from cache, verdict included", DEMO_SECONDS),
        "demo_cpu": Figure(_cpu(demos), "s of CPU, the whole machine"),
    }


def _kafka(runs: int) -> dict[str, Figure]:
    """CPU of Kafka alone until it answers, with and without its AOT cache; time and size of making the cache."""
    with tempfile.TemporaryDirectory(prefix="chat4all-bench-") as place:
        folder = Path(place) / "kafka-aot-bench"
        made = _measured(lambda: aot_cache.make(folder, kafka_server.train))
        size = sum(file.stat().st_size for file in folder.iterdir())
        lighter = [_kafka_cpu(Path(place) / f"with-{run}", with_cache=True) for run in range(runs)]
        plain = [_kafka_cpu(Path(place) / f"without-{run}", with_cache=False) for run in range(runs)]
    return {
        "kafka_start_cpu": Figure(round(median(lighter), 2), "s of CPU, with the AOT cache"),
        "kafka_start_cpu_without_cache": Figure(round(median(plain), 2), "s of CPU, StorageTool included"),
        "aot_cache_made": Figure(_seconds([made]), "s, once per machine"),
        "aot_cache_size": Figure(round(size / 2**20), "MiB"),
    }


def _kafka_cpu(folder: Path, *, with_cache: bool) -> float:
    # With any extra option Kafka starts without the cache; -Xshare:auto is the JVM's default and changes nothing else.
    child = Child(kafka_server.service(folder, extra=() if with_cache else ["-Xshare:auto"]))
    try:
        child.start()
        child.wait()
        used = psutil.Process(child.pid).cpu_times()
    finally:
        child.stop()
    return float(used.user + used.system + used.children_user + used.children_system)


def _chat4all(*arguments: str) -> None:
    command = [sys.executable, "-m", "cli.main", *arguments]
    subprocess.run(command, env=foreign(), check=True, stdout=subprocess.DEVNULL)


def _measured(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds that `run` takes, and CPU seconds of the whole machine meanwhile."""
    began, before = time.monotonic(), _busy()
    run()
    return time.monotonic() - began, _busy() - before


def _busy() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _seconds(measured: list[tuple[float, float]]) -> float:
    return round(median(seconds for seconds, _ in measured), 1)


def _cpu(measured: list[tuple[float, float]]) -> float:
    return round(median(cpu for _, cpu in measured), 1)


if __name__ == "__main__":
    main()
