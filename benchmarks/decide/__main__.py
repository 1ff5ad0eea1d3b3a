"""`python -m benchmarks.decide`: the CPU of the decisions of core's stages, and the memory of a delivery in track; without Kafka.

Enters: options; with --parent, a checkout of another commit, whose stages do the same work, alternating with ours. Leaves:
benchmarks/decide.json (unless --trial) and a table. Every measurement is a process of its own on one core; a figure is the median of the
runs. Wrong work gets no figure. Prints the stages whose outputs differ from those of the other commit.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.decide import decide_rates, delivery_memory
from benchmarks.engine.machine import CONTENDER, pinned
from schemas import benchmark
from schemas.benchmark import Figure

KINDS = {"ended": 350.0, "open": 900.0}  # kind of delivery -> target, bytes of memory
SIDES = {"ours": "", "parent": ", the commit before"}
Found = dict[str, list[Any]]  # side -> result of each run
console = Console()


def main() -> None:
    options = _options()
    if options.here:
        found = (
            decide_rates.measure(options.messages)
            if options.here == "rates"
            else delivery_memory.measure(options.deliveries, options.here)
        )
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        sides = {"ours": dict(os.environ)}
        if options.parent:
            sides["parent"] = _environment_of(options.parent.resolve(), Path(folder))
        decided: Found = {side: [] for side in sides}
        for _ in range(options.runs):
            for side, environment in sides.items():
                decided[side].append(_measured("rates", environment, options))
                console.print(side, {name: round(us, 1) for name, us in decided[side][-1]["us"].items()})
        held = {
            kind: {side: [_measured(kind, environment, options)] for side, environment in sides.items()}
            for kind in KINDS
        }
    _compare(decided)
    figures = {**_decisions(decided), **_memory(held)}
    console.print(benchmark.table(figures))
    if not options.trial:
        path = benchmark.write("decide", " ".join(["python -m benchmarks.decide", *sys.argv[1:]]), figures)
        console.print(f"written to {path.relative_to(Path.cwd())}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decide", description="Benchmark of the stages' decisions."
    )
    parser.add_argument("--messages", type=int, default=12_000, help="messages that go through all stages")
    parser.add_argument("--deliveries", type=int, default=1_000_000, help="deliveries that track holds")
    parser.add_argument("--runs", type=int, default=5, help="runs of each side; the median counts")
    parser.add_argument("--parent", type=Path, help="a checkout of another commit, to measure too")
    parser.add_argument("--trial", action="store_true", help="do not write benchmarks/decide.json")
    parser.add_argument("--here", choices=["rates", *KINDS], help=argparse.SUPPRESS)
    return parser.parse_args()


def _environment_of(folder: Path, first: Path) -> dict[str, str]:
    """The environment of a process that imports from the other checkout. The benchmark comes from there too if it has one, since it knows
    how its stages are built; else ours comes `first` on the path."""
    if (folder / "benchmarks" / "decide").exists():
        return os.environ | {"PYTHONPATH": str(folder)}
    (first / "benchmarks").symlink_to(Path(__file__).parent.parent)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(first), str(folder)])}


def _measured(what: str, environment: Mapping[str, str], options: argparse.Namespace) -> Any:
    numbers = ["--messages", str(options.messages), "--deliveries", str(options.deliveries)]
    # -P: the folder it starts in is not on the path
    command = [sys.executable, "-P", "-m", "benchmarks.decide", "--here", what, *numbers]
    clean = {name: value for name, value in environment.items() if not name.startswith("CHAT4ALL_")}
    with pinned(CONTENDER):
        done = subprocess.run(command, env=clean, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"no figure: {what} ended with {done.returncode}")
    return json.loads(done.stdout)


def _compare(decided: Found) -> None:
    ours, *others = (runs[0]["digests"] for runs in decided.values())
    for other in others:
        unlike = [stage for stage in ours if ours[stage] != other[stage]]
        if unlike:
            console.print(f"[red]{', '.join(unlike)} have other outputs than at the other commit[/red]")


def _decisions(decided: Found) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for stage in (*decide_rates.STAGES, "all"):
        for side, runs in decided.items():
            us = median(_of(run["us"], stage) for run in runs)
            size = median(_of(run["changelog"], stage) for run in runs)
            end = "" if side == "ours" else "_before"
            what = f"{stage if stage != 'all' else 'the four stages'}{SIDES[side]}"
            figures[f"{stage}_decision{end}"] = Figure(
                round(us, 1), f"microseconds of CPU a delivery, {what}, median of {len(runs)}"
            )
            figures[f"{stage}_changelog{end}"] = Figure(round(size), f"bytes of changelog a delivery, {what}")
    return dict(sorted(figures.items(), key=lambda each: "changelog" in each[0]))


def _of(values: Mapping[str, float], stage: str) -> float:
    return sum(values.values()) if stage == "all" else values[stage]


def _memory(held: Mapping[str, Found]) -> dict[str, Figure]:
    return {
        f"track_{kind}" + ("" if side == "ours" else "_before"): Figure(
            round(runs[0]["bytes"]),
            f"bytes resident a delivery that {'has ended' if kind == 'ended' else 'is open'}{SIDES[side]}, of {runs[0]['deliveries']:,}",
            KINDS[kind] if side == "ours" else None,
        )
        for kind, found in held.items()
        for side, runs in found.items()
    }


if __name__ == "__main__":
    main()
