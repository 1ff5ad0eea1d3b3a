"""`python -m benchmarks.life`: the demo's load, steady loads and a full load through the whole product, also at another commit.

Enters: an idle machine; with --parent, a checkout of another commit whose modules have the same names. Leaves: benchmarks/life.json
(unless --trial) and a table. Runs of the two commits alternate, each with a stack of its own; a figure is the median of the runs, a ratio
the median of the runs' ratios. CPU is that of all processes: servers, workers, gateway, simulators and the one that makes the load.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.life import side
from schemas import benchmark
from schemas.benchmark import Figure
from schemas.environment import foreign

PARTS = {  # part of the product -> its processes; the names of 0.1 too
    "core": ("core", "route", "send", "match", "track"),
    "sinks": ("sinks", "archive", "analyse"),
    "gateway": ("gateway",),
    "kafka": ("kafka",),
    "databases": ("postgres", "clickhouse", "valkey", "s3"),
    "simulators": ("simulators", "whatsapp", "telegram", "instagram", "internal"),
    "load": ("load",),
}
MUST_CPU = 0.65  # at 100 messages a second
MUST_MS = {("demo", "p95"): 2000, ("at_100", "p50"): 110, ("at_100", "p95"): 220}  # from accept to sent
MUST_RATE, MUST_CPU_A_DELIVERY, MUST_CPU_MS = 1.8, 0.6, 1.9  # at saturation
MUST_TRANSACTIONS = 40
Run = dict[str, Any]  # load -> the measurements of one run
console = Console()


def main() -> None:
    options = _options()
    sides = {"ours": Path(__file__).parent.parent.parent}
    if options.parent:
        sides["parent"] = options.parent.resolve()
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for number in range(options.runs):
        for name, checkout in sides.items():
            runs[name].append(_run(checkout))
            console.print(f"run {number + 1}, {name}:", _short(runs[name][-1]))
    figures = {**_figures(runs["ours"], "", bounded=True)}
    if options.parent:
        figures |= _ratios(runs["ours"], runs["parent"]) | _figures(runs["parent"], "_before", bounded=False)
    console.print(benchmark.table(figures))
    if not options.trial:
        command = f"make bench-life{' PARENT=the commit before' if options.parent else ''}"
        console.print(f"written to {benchmark.write('life', command, figures).relative_to(Path.cwd())}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.life", description="Benchmark of the whole product.")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side; the median counts")
    parser.add_argument("--parent", type=Path, help="a checkout of another commit, to measure too")
    parser.add_argument("--trial", action="store_true", help="do not write benchmarks/life.json")
    return parser.parse_args()


def _run(checkout: Path) -> Run:
    with tempfile.TemporaryDirectory(prefix="chat4all-bench-") as place:
        # Under root, PostgreSQL runs as another user and must reach its programs in this folder.
        Path(place).chmod(0o755)
        found = Path(place) / "found.json"
        environment = foreign({"PYTHONPATH": str(checkout)})
        # -P: the folder of the script is not on the path
        command = [sys.executable, "-P", side.__file__, str(Path(place) / "stack"), str(found)]
        with (Path(place) / "log").open("w+b") as log:
            done = subprocess.run(command, env=environment, cwd=checkout, stdout=log, stderr=log, check=False)
            if done.returncode:
                log.seek(0)
                raise SystemExit(
                    f"no figure, the run ended with {done.returncode}:\n{log.read().decode(errors='replace')[-4000:]}"
                )
        return dict(json.loads(found.read_text(encoding="utf-8")))


def _figures(runs: list[Run], end: str, *, bounded: bool) -> dict[str, Figure]:
    """The figures of one side; their names end with `end`."""
    of = "all processes, " + (f"median of {len(runs)}" if bounded else "the commit before")
    figures: dict[str, Figure] = {}
    for load, knobs in side.LOADS.items():
        at = f"at {knobs.rate:.0f} messages/s" if knobs.rate else "at saturation"
        found = [run[load] for run in runs]
        figures[f"{load}_cpu{end}"] = Figure(
            round(_median(found, _cpu), 1), f"s of CPU for {knobs.count} messages {at}, {of}", better="lower"
        )
        for part in PARTS:
            used = _median(found, partial(_cpu, part=part))
            figures[f"{load}_cpu_{part}{end}"] = Figure(round(used, 1), f"s of CPU, {part}", better="lower")
        figures[f"{load}_cpu_a_delivery{end}"] = Figure(
            round(_median(found, _ms), 2),
            f"ms of CPU a delivery {at}, {of}",
            MUST_CPU_MS if bounded and load == "saturation" else None,
        )
        figures[f"{load}_transactions{end}"] = Figure(
            round(_median(found, _transactions), 1),
            f"Kafka transactions a second {at}",
            MUST_TRANSACTIONS if bounded and load == "at_100" else None,
            "lower",
        )
        if knobs.rate:
            for share in ("p50", "p95", "p99"):
                value = median(each["accept_to_sent"][share] for each in found)
                must = MUST_MS.get((load, share)) if bounded else None
                figures[f"{load}_accept_to_sent_{share}{end}"] = Figure(round(value), f"ms, accept to sent {at}", must)
        else:
            figures[f"{load}_rate{end}"] = Figure(
                round(_median(found, _rate)), f"deliveries/s {at}, first produced to last ended"
            )
    return figures


def _ratios(ours: list[Run], theirs: list[Run]) -> dict[str, Figure]:
    def ratio(load: str, of: Callable[[Run], float]) -> float:
        return round(median(of(own[load]) / of(other[load]) for own, other in zip(ours, theirs, strict=True)), 2)

    unit = "times the commit before, median of the runs' ratios"
    return {
        "at_100_cpu_ratio": Figure(ratio("at_100", _cpu), f"{unit}, CPU at 100 messages/s", MUST_CPU, "lower"),
        "at_50_cpu_ratio": Figure(ratio("at_50", _cpu), f"{unit}, CPU at 50 messages/s", None, "lower"),
        "saturation_rate_ratio": Figure(
            ratio("saturation", _rate), f"{unit}, deliveries a second", MUST_RATE, "higher"
        ),
        "saturation_cpu_ratio": Figure(
            ratio("saturation", _ms), f"{unit}, CPU a delivery", MUST_CPU_A_DELIVERY, "lower"
        ),
    }


def _median(found: Iterable[Run], of: Callable[[Run], float]) -> float:
    return median(map(of, found))


def _cpu(run: Run, part: str = "") -> float:
    """CPU seconds of one part of the product, or of all."""
    names = PARTS[part] if part else run["cpu"]
    return float(sum(run["cpu"].get(name, 0.0) for name in names))


def _rate(run: Run) -> float:
    return float(run["deliveries"] / run["seconds"])


def _transactions(run: Run) -> float:
    return float(run["transactions"] / run["seconds"])


def _ms(run: Run) -> float:
    return 1000 * _cpu(run) / float(run["deliveries"])


def _short(run: Run) -> str:
    parts = (
        f"{load}: {_cpu(run[load]):.1f} s CPU, {_ms(run[load]):.2f} ms a delivery, {_rate(run[load]):.0f}/s,"
        f" {_transactions(run[load]):.0f} transactions/s, p50 {run[load]['accept_to_sent']['p50']}"
        f" p95 {run[load]['accept_to_sent']['p95']} ms"
        for load in side.LOADS
    )
    return "; ".join(parts)


if __name__ == "__main__":
    main()
