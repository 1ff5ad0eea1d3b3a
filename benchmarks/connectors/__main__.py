"""`python -m benchmarks.connectors`: the cost of a connector compared with a bare HTTP client, and the speed of simulators and webhooks.

What enters: options. What leaves: benchmarks/connectors.json (unless --trial) and a table. The measured process has one core for itself;
the process at the other end runs on the other cores. Rates are per CPU second, so that a busy machine changes them little. A connector and
the bare loop run alternately in one process; the result is the median of the pairs. `--long` makes the million calls over which memory must
stay flat.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import orjson
from rich.console import Console

from benchmarks.connectors import bare_http, simulator_costs
from benchmarks.connectors.channel_costs import SETTINGS, answer
from benchmarks.engine.machine import OTHERS, Process, pinned
from schemas import benchmark
from schemas.benchmark import Figure

TO_BARE = 0.8
SIMULATOR = 5_000.0
STATUSES = 50_000.0
FLAT_MIB = 20.0
SHORT, LONG = 50_000, 1_000_000
PARTS = ("calls", "webhooks", "simulators", "memory")
console = Console()


def main() -> None:
    options = _options()
    figures: dict[str, Figure] = {}
    with pinned(OTHERS), tempfile.TemporaryDirectory(prefix="chat4all-bench-") as place:
        folder = Path(place)
        if "calls" in options.parts:
            for channel in SETTINGS:
                figures |= asyncio.run(_calls(channel, options, folder))
        if "webhooks" in options.parts:
            figures |= _webhooks(folder)
        if "simulators" in options.parts:
            for channel in SETTINGS:
                figures |= _simulator(
                    channel, asyncio.run(simulator_costs.measured(channel, options.simulated, folder)), options
                )
        if "memory" in options.parts:
            figures |= asyncio.run(_memory("whatsapp", LONG if options.long else SHORT, folder))
    console.print(benchmark.table(figures))
    if not options.trial:
        path = benchmark.write("connectors", " ".join(["python -m benchmarks.connectors", *sys.argv[1:]]), figures)
        console.print(f"written to {path.relative_to(Path.cwd())}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.connectors", description="Benchmark of the connectors.")
    parser.add_argument("--calls", type=int, default=3000, help="calls a round")
    parser.add_argument("--rounds", type=int, default=9, help="pairs of rounds; the result is their median")
    parser.add_argument("--simulated", type=int, default=20_000, help="calls to each simulator")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--long", action="store_true", help=f"make {LONG:,} calls for the memory figure, not {SHORT:,}")
    parser.add_argument("--trial", action="store_true", help="write no file")
    return parser.parse_args()


async def _calls(channel: str, options: argparse.Namespace, folder: Path) -> dict[str, Figure]:
    async with bare_http.answering(answer(channel)) as url:
        pairs = await _child(
            [
                "benchmarks.connectors.caller",
                channel,
                url,
                "--calls",
                str(options.calls),
                "--rounds",
                str(options.rounds),
            ],
            folder,
        )
    bare, ours = (median(pair[name] for pair in pairs) for name in ("bare", "connector"))
    shares = sorted(pair["bare"] / pair["connector"] for pair in pairs)
    about = f"calls a CPU second, median of {len(pairs)}"
    return {
        f"{channel}_bare": Figure(round(1 / bare), f"{about}: an aiohttp loop that posts the same bodies"),
        f"{channel}_connector": Figure(round(1 / ours), f"{about}, call log on"),
        f"{channel}_to_bare": Figure(
            round(median(shares), 3),
            f"of the bare loop, median of pairs ({shares[0]:.2f} to {shares[-1]:.2f})",
            TO_BARE,
        ),
    }


def _webhooks(folder: Path) -> dict[str, Figure]:
    rates = asyncio.run(_child(["benchmarks.connectors.webhook_costs"], folder))
    units = {"telegram": "updates a CPU second, one a POST", "whatsapp": "statuses a CPU second, 100 a POST"}
    return {
        f"{name}_webhook": Figure(
            round(rate), units.get(name, "receipts a CPU second, 100 a POST"), None if name == "telegram" else STATUSES
        )
        for name, rate in rates.items()
    }


def _simulator(channel: str, rates: simulator_costs.Rates, options: argparse.Namespace) -> dict[str, Figure]:
    name = f"{channel}_simulator"
    posted = f"{rates.receipts_posted} of {options.simulated} calls"
    return {
        f"{name}_calls": Figure(round(rates.calls), "calls a CPU second", SIMULATOR),
        f"{name}_calls_wall": Figure(round(rates.calls_wall), "calls a second, one core, as it came"),
        f"{name}_receipts": Figure(round(rates.receipts), f"receipts a CPU second, {posted}", SIMULATOR),
        f"{name}_growth": Figure(round(rates.growth_mib, 1), f"MiB from a fifth of {options.simulated} calls to all"),
    }


async def _memory(channel: str, calls: int, folder: Path) -> dict[str, Figure]:
    async with bare_http.answering(answer(channel)) as url:
        held = await _child(["benchmarks.connectors.caller", channel, url, "--memory", str(calls)], folder)
    growth = (held[-1] - held[1]) / 2**20
    about = f"MiB resident of the connector's process, from a fifth of {calls:,} calls to all"
    return {
        "connector_growth": Figure(round(growth, 1), about, FLAT_MIB),
        "connector_memory": Figure(round(held[-1] / 2**20, 1), "MiB resident at the end"),
    }


async def _child(module: list[str], folder: Path) -> Any:
    """Runs a process on the measured core and returns its JSON. Its log goes to a file, as in production."""
    result = folder / "result.json"
    script = f"exec {sys.executable} -m {' '.join(module)} > {result}"
    process = Process(["/bin/sh", "-c", script], {}, folder / "child.log")
    try:
        while not process.ended:  # noqa: ASYNC110  # Process has no event for its end
            await asyncio.sleep(0.05)
    finally:
        process.stop()
    try:
        return orjson.loads(result.read_bytes())
    except ValueError:
        raise SystemExit(f"{module[0]} failed: {process.output()[-2000:]}") from None


if __name__ == "__main__":
    main()
