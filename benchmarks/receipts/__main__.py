"""`python -m benchmarks.receipts`: receipts from the provider's request to the view: speed of the gateway, cost of cursors, memory, delay.

Enters: an idle machine. Leaves: benchmarks/receipts.json (unless --trial) and a table. Parts: `gateway` beside a bare handler, `view` from
a posted receipt to the web view, `cursors` with and without, `memory` of open deliveries. A ratio is the median of the ratios of one run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median, quantiles

from rich.console import Console

from benchmarks.receipts import cursor_costs, gateway_rates, view_delays
from schemas import benchmark
from schemas.benchmark import Figure

MUST_TO_BARE = 0.6
MUST_STATUSES = 20_000
MUST_CURSORS = 0.15
MUST_GB = 1.5
MUST_MS = 150
DELIVERIES = 5_000_000
console = Console()


def main() -> None:
    options = _options()
    figures: dict[str, Figure] = {}
    for part in options.parts:
        with tempfile.TemporaryDirectory(prefix="chat4all-bench-") as place:
            # Under root, PostgreSQL runs as another user and must reach its programs in this folder.
            Path(place).chmod(0o755)
            found = PARTS[part](Path(place), options)
        console.print(benchmark.table(found))
        figures |= found
    if not options.trial:
        path = benchmark.write("receipts", " ".join(["python -m benchmarks.receipts", *sys.argv[1:]]), figures)
        console.print(f"written to {path.relative_to(Path.cwd())}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.receipts", description="Benchmark of receipts.")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of the gateway and the bare handler")
    parser.add_argument("--seconds", type=float, default=25.0, help="how long receipts are posted for the view")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of loads with and without cursors")
    parser.add_argument("--messages", type=int, default=4000, help="messages of such a load")
    parser.add_argument("--deliveries", type=int, default=DELIVERIES, help="open deliveries in memory")
    parser.add_argument("--trial", action="store_true", help="do not write benchmarks/receipts.json")
    return parser.parse_args()


def _gateway(folder: Path, options: argparse.Namespace) -> dict[str, Figure]:
    rounds = gateway_rates.measured(folder, options.rounds)
    of = f"median of {len(rounds)}"

    def middle(value: Callable[[gateway_rates.Round], float], digits: int = 0) -> float:
        return round(median(map(value, rounds)), digits or None)

    ratios = sorted(each.gateway / each.bare for each in rounds)
    return {
        "gateway_to_bare": Figure(
            round(median(ratios), 3),
            f"of the requests a second of a bare aiohttp handler, {of} pairs ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            MUST_TO_BARE,
            "higher",
        ),
        "gateway_to_bare_cpu": Figure(
            round(median(each.bare_us / each.gateway_us for each in rounds), 3),
            f"of the requests a CPU second of the bare handler, {of} pairs",
            None,
            "higher",
        ),
        "gateway_requests": Figure(
            middle(lambda each: each.gateway), f"requests/s of the gateway, one status each, {of}"
        ),
        "bare_requests": Figure(middle(lambda each: each.bare), f"requests/s of the bare handler, {of}"),
        "gateway_request": Figure(
            middle(lambda each: each.gateway_us), f"microseconds of CPU a request, gateway, {of}"
        ),
        "bare_request": Figure(middle(lambda each: each.bare_us), f"microseconds of CPU a request, bare handler, {of}"),
        "gateway_statuses": Figure(
            middle(lambda each: each.statuses),
            f"statuses a CPU second of the gateway, 100 a POST, {of}",
            MUST_STATUSES,
            "higher",
        ),
        "gateway_statuses_wall": Figure(middle(lambda each: each.statuses_wall), f"statuses/s, 100 a POST, {of}"),
    }


def _view(folder: Path, options: argparse.Namespace) -> dict[str, Figure]:
    seen = view_delays.measured(folder, options.seconds)
    kinds = {
        "receipt_to_view": [each.ms for each in seen],
        "receipt_to_view_by_tracker": [each.ms for each in seen if each.by_tracker],
        "receipt_to_view_by_binding": [each.ms for each in seen if not each.by_tracker],
    }
    at = f"ms from posted to visible in a worker's view, at {view_delays.RATE:.0f} receipts/s"
    figures = {}
    for name, found in kinds.items():
        figures[f"{name}_p50"] = Figure(round(median(found)), f"{at}, of {len(found)}")
        must = MUST_MS if name == "receipt_to_view" else None
        figures[f"{name}_p95"] = Figure(round(quantiles(found, n=20)[-1]), f"{at}, of {len(found)}", must)
    return figures


def _cursors(folder: Path, options: argparse.Namespace) -> dict[str, Figure]:
    pairs = cursor_costs.measured(folder, options.pairs, options.messages)
    shares = sorted(1 - pair["without"].us / pair["with"].us for pair in pairs)
    of = f"median of {len(pairs)}"
    return {
        "cursors_share": Figure(
            round(median(shares), 3),
            f"of core's CPU a delivery, {of} pairs ({shares[0]:.2f} to {shares[-1]:.2f})",
            MUST_CURSORS,
            "lower",
        )
    } | {
        f"core_{side}_cursors": Figure(
            round(median(pair[side].us for pair in pairs)), f"microseconds of CPU of core a delivery, {of}"
        )
        for side in cursor_costs.SIDES
    }


def _memory(folder: Path, options: argparse.Namespace) -> dict[str, Figure]:
    command = [sys.executable, "-m", "benchmarks.receipts.open_deliveries", str(folder), str(options.deliveries)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"no figure: the process with open deliveries ended with {done.returncode}")
    found = json.loads(done.stdout)
    about = f"{found['deliveries']:,.0f} open deliveries in RocksDB"
    return {
        "open_deliveries_memory": Figure(
            round(max(found["filled"], found["updated"]) / 1e9, 2), f"GB resident, {about}", MUST_GB
        ),
        "open_deliveries_most": Figure(
            round(found["most"] / 1e9, 2), f"GB resident at most while they were filled, {about}"
        ),
        "open_deliveries_disk": Figure(round(found["disk"] / 1e9, 2), f"GB on disk, {about}"),
    }


PARTS: Mapping[str, Callable[[Path, argparse.Namespace], dict[str, Figure]]] = {
    "gateway": _gateway,
    "view": _view,
    "cursors": _cursors,
    "memory": _memory,
}


if __name__ == "__main__":
    main()
