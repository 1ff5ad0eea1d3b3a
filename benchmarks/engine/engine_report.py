"""The report of a benchmark: figures with the targets of the engine. Enters: measurements. Leaves: figures by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

from benchmarks.engine.contenders import CONTENDERS
from benchmarks.engine.engine_rates import Run
from benchmarks.engine.restore_rates import Restored
from schemas.benchmark import Figure

# contender -> target: the rate of ours (in memory), divided by the contender's rate
TARGETS = {"transactional-loop": 0.95, "streams-exactly-once": 0.8, "quix": 4.0, "faust": 27.0}
SLOWEST_SECOND = 0.6
ROCKSDB_TO_MEMORY = 0.5
RESTORE = {"ours": 250_000.0, "ours-rocksdb": 150_000.0, "faust": None}
BYTES_A_ROW = 200.0
RESIDENT_GB = 2.0
LONE_P95_MS = 12.0
PARENT_CPU = 1.03  # target: at most so many times the parent commit's CPU a record


@dataclass(slots=True)
class Measured:
    """All measurements; parts that did not run are empty."""

    runs: dict[str, list[Run]] = field(default_factory=dict)
    restored: dict[str, list[Restored]] = field(default_factory=dict)
    empty: dict[str, Restored] = field(default_factory=dict)  # the same workers without a row
    lone_ms: dict[str, Sequence[float]] = field(default_factory=dict)  # contender -> time of each lone record, sorted


def figures(measured: Measured) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    for name, runs in measured.runs.items():
        found |= _rate(name.replace("-", "_"), name, runs)
    found |= _ratios(measured.runs)
    if {"ours", "parent"} <= set(measured.runs):
        found["ours_to_parent_cpu"] = _beside_parent(measured.runs["ours"], measured.runs["parent"])
    for name, restored in measured.restored.items():
        found |= _restored(name.replace("-", "_"), name, restored, measured.empty.get(name))
    if {"ours", "faust"} <= set(measured.restored):
        ours, faust = (found[f"{name}_restore"].value for name in ("ours", "faust"))
        found["ours_to_faust_restore"] = Figure(round(ours / faust, 1), "times as fast as Faust's own recovery")
    for name, lone_ms in measured.lone_ms.items():
        found |= _lone("lone_record" if name == "ours" else f"{name.replace('-', '_')}_lone_record", name, lone_ms)
    return found


def _lone(key: str, name: str, lone_ms: Sequence[float]) -> dict[str, Figure]:
    shares = quantiles(lone_ms, n=100)
    title = CONTENDERS[name].title
    return {
        f"{key}_p50": Figure(
            round(shares[49], 1), f"ms, produce to read_committed, {len(lone_ms)} lone records, {title}"
        ),
        f"{key}_p95": Figure(round(shares[94], 1), "ms, commit included", LONE_P95_MS if name == "ours" else None),
        f"{key}_max": Figure(round(max(lone_ms), 1), "ms"),
    }


def _rate(key: str, name: str, runs: Sequence[Run]) -> dict[str, Figure]:
    is_ours = name.startswith("ours")
    found = {
        f"{key}_rate": Figure(
            round(median(run.per_second for run in runs)),
            f"records/s on one core, {CONTENDERS[name].title}, median of {len(runs)}",
        ),
        f"{key}_cpu": Figure(round(median(run.cpu_us for run in runs), 1), "microseconds of CPU a record"),
    }
    shares = [run.slowest_share for run in runs if run.slowest_share is not None]
    if shares:
        found[f"{key}_slowest_second"] = Figure(
            round(median(shares), 2), "of the median second", SLOWEST_SECOND if is_ours else None
        )
    sizes = [run.per_transaction for run in runs if run.per_transaction is not None]
    if sizes:
        found[f"{key}_transaction"] = Figure(round(median(sizes)), "outputs a transaction, mean")
    return found


def _beside_parent(ours: Sequence[Run], parent: Sequence[Run]) -> Figure:
    ratio, pairs = _paired([run.cpu_us for run in ours], [run.cpu_us for run in parent])
    return Figure(ratio, f"times the CPU a record of the commit before, median of {pairs} pairs", PARENT_CPU, "lower")


def _ratios(runs: Mapping[str, Sequence[Run]]) -> dict[str, Figure]:
    rates = {name: [run.per_second for run in of_one] for name, of_one in runs.items()}
    if "ours" not in rates:
        return {}
    found: dict[str, Figure] = {}
    for name in [name for name in rates if not name.startswith("ours")]:
        ratio, pairs = _paired(rates["ours"], rates[name])
        what = f"times as fast as: {CONTENDERS[name].title}, median of {pairs} pairs"
        found[f"ours_to_{name.replace('-', '_')}"] = Figure(ratio, what, TARGETS.get(name))
    if "ours-rocksdb" in rates:
        ratio, pairs = _paired(rates["ours-rocksdb"], rates["ours"])
        found["rocksdb_to_memory"] = Figure(
            ratio, f"times the rate in memory, median of {pairs} pairs", ROCKSDB_TO_MEMORY
        )
    return found


def _paired(ones: Sequence[float], others: Sequence[float]) -> tuple[float, int]:
    """The median of the rounds' ratios, and their number. A machine that is slow in a round is slow for both."""
    ratios = [one / other for one, other in zip(ones, others, strict=False)]
    return round(median(ratios), 2), len(ratios)


def _restored(key: str, name: str, restored: Sequence[Restored], empty: Restored | None) -> dict[str, Figure]:
    rows = restored[0].rows
    per_second = median(one.rows / one.seconds for one in restored)
    found = {f"{key}_restore": Figure(round(per_second), f"rows/s restored, of {rows:,} rows", RESTORE[name])}
    if empty is not None:
        memory = median(one.memory_bytes - empty.memory_bytes for one in restored) / rows
        disk = median(one.disk_bytes for one in restored) / rows
        if disk > 1:
            found[f"{key}_disk"] = Figure(round(disk), "bytes on disk a live row", BYTES_A_ROW)
        whole = median(one.memory_bytes for one in restored) / 1e9
        found[f"{key}_resident"] = Figure(
            round(whole, 2), f"GB resident, the whole worker with {rows:,} live rows", RESIDENT_GB
        )
        found[f"{key}_memory"] = Figure(round(memory), "bytes resident a live row, buffers of the restore included")
    return found
