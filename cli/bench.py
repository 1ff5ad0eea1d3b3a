"""`chat4all bench`: the duration of the demo, deliveries a second end to end, and the memory of each process.

Enters: nothing. Leaves: benchmarks/demo.json and a table. The first demo runs in a fresh clone of this repository with empty caches,
so its time includes all downloads.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from cli import stack
from cli.load import CHANNELS
from cli.load_run import LoadOptions, RunResult, run_load
from cli.terminal import console
from schemas import benchmark
from schemas.benchmark import Figure
from schemas.environment import foreign
from schemas.settings import use_state
from stack import control
from stack.state import read_state, state_path

RUNS = 3
MESSAGES = 6000
LOAD = LoadOptions(
    count=MESSAGES,
    rate=0,
    channels=CHANNELS,
    conversations=1000,
    group_share=0.0,
    groups=1,
    group_size=20,
    duplicates=0.05,
    seed=1,
)
PACED = LoadOptions(
    count=3000,
    rate=100,
    channels=CHANNELS,
    conversations=1000,
    group_share=0.0,
    groups=1,
    group_size=20,
    duplicates=0.05,
    seed=2,
)


def bench() -> None:
    """Measure the whole product on this machine. Takes some minutes and writes benchmarks/demo.json.

    Starts and stops a stack of its own. For maintainers: needs a clone of the repository, git and make.
    """
    figures = _demo_times()
    folder = Path(".chat4all") / f"bench-{os.getpid()}"
    try:
        stack.start(folder)
        settings = use_state(state_path(folder))
        figures |= _paced(run_load(folder, settings, PACED))
        rates = []
        for number in range(RUNS):
            outcome = _good(run_load(folder, settings, LOAD))
            rates.append(outcome.load.deliveries / outcome.seconds)
            console.print(f"run {number + 1}: {rates[-1]:.0f} deliveries a second, with receipts")
        figures["deliveries_per_second"] = Figure(
            round(median(rates)), "deliveries/s, first produced to last receipt archived", 300
        )
        figures |= _memory(folder)
    finally:
        control.stop(folder)
    path = benchmark.write("demo", "make bench", figures)
    console.print(benchmark.table(figures))
    console.print(f"written to {path.relative_to(Path.cwd())}")


def _demo_times() -> dict[str, Figure]:
    """`make demo` twice in a fresh clone: first with empty caches, then with full ones."""
    with tempfile.TemporaryDirectory(prefix="chat4all-bench-") as place:
        Path(place).chmod(0o755)  # root's PostgreSQL runs as another user, who must be able to read its programs here
        clone = Path(place) / "clone"
        source = Path(__file__).parent.parent
        subprocess.run(["git", "clone", "--quiet", str(source), str(clone)], check=True, env=foreign())  # noqa: S603, S607  # our own repository, the git on PATH
        cache = str(Path(place) / "cache")
        environment = foreign({"XDG_CACHE_HOME": cache, "PIP_NO_CACHE_DIR": "1", "PYTHON": sys.executable})
        times = []
        for _ in range(2):
            began = time.monotonic()
            subprocess.run(["make", "demo"], cwd=clone, env=environment, check=True, stdout=subprocess.DEVNULL)  # noqa: S607  # the make on PATH
            times.append(time.monotonic() - began)
    return {
        "demo_fresh_clone": Figure(round(times[0], 1), "s, downloads included"),
        "demo_cached": Figure(round(times[1], 1), "s, verdict included", 90),
    }


def _paced(outcome: RunResult) -> dict[str, Figure]:
    """Latencies of a load far below the capacity of the machine."""
    found = {}
    for name, times in _good(outcome).verdict.latencies.items():
        key = name.replace(" ", "_")
        for share in ("p50", "p95", "p99"):
            found[f"{key}_{share}"] = Figure(getattr(times, share), f"ms, at {PACED.rate:.0f} messages/s")
    return found


def _good(outcome: RunResult) -> RunResult:
    if not outcome.ok:
        raise SystemExit("the verdict of a run was not good: no figures are written")
    return outcome


def _memory(folder: Path) -> dict[str, Figure]:
    state = read_state(folder)
    services = state.services if state else ()
    return {
        f"memory_{s.name}": Figure(round(control.memory(s.pid) / 2**20), "MiB resident after the runs")
        for s in services
        if s.pid
    }
