"""`python -m benchmarks.idle`: the cost of an idle stack.

Enters: an idle machine. Leaves: benchmarks/idle.json (unless --trial) and a table: the CPU of each process, and the requests to Kafka. It
starts two stacks, one after the other, and waits a while before it measures each. The first shows the CPU. The Kafka of the second logs
every request, which takes much more CPU than the idle stack itself.
"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import psutil
from rich.console import Console

from benchmarks.idle.requests import LOGGED, Requests
from cli.dev_stack import compose
from schemas import benchmark
from schemas.benchmark import Figure
from stack import control
from stack.state import StackState

MOST_PERCENT = 4.0
CORES = 2  # percentages are of these, whatever the machine has
LEAST_REQUESTS = 0.1  # a second, to have a figure of its own
console = Console()


def main() -> None:
    options = _options()
    figures: dict[str, Figure] = {}
    with _stack() as (_, state):
        console.print(f"waiting for {options.rest:.0f} s, then measuring for {options.seconds:.0f} s")
        time.sleep(options.rest)
        before, began = _cpu(state), time.monotonic()
        time.sleep(options.seconds)
        figures |= _shares(before, _cpu(state), time.monotonic() - began)
    with mock.patch.dict(os.environ, LOGGED), _stack() as (folder, _):
        time.sleep(options.rest)
        requests = Requests(folder / "kafka" / "kafka.log")
        time.sleep(options.seconds / 2)
        figures |= _rates(requests.count(), options.seconds / 2)
    console.print(benchmark.table(figures))
    if not options.trial:
        command = f"python -m benchmarks.idle --rest {options.rest:g} --seconds {options.seconds:g}"
        console.print(f"written to {benchmark.write('idle', command, figures).relative_to(Path.cwd())}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description="Benchmark of an idle stack.")
    parser.add_argument("--rest", type=float, default=60.0, help="seconds to wait before the measurement")
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="seconds to measure CPU; requests are measured for half of them"
    )
    parser.add_argument("--trial", action="store_true", help="do not write benchmarks/idle.json")
    return parser.parse_args()


@contextmanager
def _stack() -> Iterator[tuple[Path, StackState]]:
    folder = Path(".chat4all") / f"bench-idle-{os.getpid()}"
    try:
        yield folder, control.start(folder, compose(folder))
    finally:
        control.stop(folder)


def _cpu(state: StackState) -> dict[str, float]:
    """CPU seconds so far of each process of the stack, with its children."""
    found = {"supervisor": _seconds(psutil.Process(state.pid))}
    for service in state.services:
        if service.pid:
            process = psutil.Process(service.pid)
            found[service.name] = sum(map(_seconds, (process, *process.children(recursive=True))))
    return found


def _seconds(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _shares(before: Mapping[str, float], after: Mapping[str, float], seconds: float) -> dict[str, Figure]:
    percent = {name: 100 * (used - before.get(name, 0.0)) / seconds / CORES for name, used in after.items()}
    unit = f"% of {CORES} cores"
    whole = Figure(round(sum(percent.values()), 2), f"{unit}, all processes", MOST_PERCENT, "lower")
    return {"idle cpu": whole} | {
        f"idle cpu: {name}": Figure(round(share, 2), unit, better="lower")
        for name, share in sorted(percent.items(), key=lambda each: -each[1])
    }


def _rates(found: Counter[str], seconds: float) -> dict[str, Figure]:
    rates = {name: number / seconds for name, number in found.most_common()}
    whole = Figure(round(sum(rates.values()), 1), "requests/s to Kafka, of all clients", better="lower")
    return {"idle requests": whole} | {
        f"idle requests: {name}": Figure(round(rate, 1), "requests/s", better="lower")
        for name, rate in rates.items()
        if rate >= LEAST_REQUESTS
    }


if __name__ == "__main__":
    main()
