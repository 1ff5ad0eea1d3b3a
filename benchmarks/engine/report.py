"""What the measurements say: figures with the targets of the engine."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

from benchmarks.engine.contenders import CONTENDERS
from benchmarks.engine.rates import Run
from benchmarks.engine.restore import Restored
from schemas.benchmark import Figure

# contender -> how many times faster ours (in memory) is to be
TARGETS = {"transactional-loop": 0.95, "streams-exactly-once": 0.8, "quix": 4.0, "faust": 27.0}
SLOWEST_SECOND = 0.6
ROCKSDB_TO_MEMORY = 0.5
RESTORE = {"ours": 250_000.0, "ours-rocksdb": 150_000.0, "faust": None}
BYTES_A_ROW = 200.0
RESIDENT_GB = 2.0
LONE_P95_MS = 12.0
PARENT_CPU = 1.03  # times the parent commit's CPU a record


@dataclass(slots=True)
class Measured:
    """Everything that was measured; what was not is empty."""

    runs: dict[str, list[Run]] = field(default_factory=dict)
    restored: dict[str, list[Restored]] = field(default_factory=dict)
    empty: dict[str, Restored] = field(default_factory=dict)  # the same workers without a row
    lone_ms: Sequence[float] = ()


def figures(measured: Measured) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    for name, runs in measured.runs.items():
        found |= _rate(name.replace("-", "_"), name, runs)
    found |= _ratios({name: median(run.per_second for run in runs) for name, runs in measured.runs.items()})
    if {"ours", "parent"} <= set(measured.runs):
        found["ours_to_parent_cpu"] = _beside_parent(measured.runs["ours"], measured.runs["parent"])
    for name, restored in measured.restored.items():
        found |= _restored(name.replace("-", "_"), name, restored, measured.empty.get(name))
    if {"ours", "faust"} <= set(measured.restored):
        ours, faust = (found[f"{name}_restore"].value for name in ("ours", "faust"))
        found["ours_to_faust_restore"] = Figure(round(ours / faust, 1), "times as fast as Faust's own recovery")
    if measured.lone_ms:
        shares = quantiles(measured.lone_ms, n=100)
        count = len(measured.lone_ms)
        found["lone_record_p50"] = Figure(round(shares[49], 1), f"ms, produce to read_committed, {count} lone records")
        found["lone_record_p95"] = Figure(round(shares[94], 1), "ms, commit included", LONE_P95_MS)
        found["lone_record_max"] = Figure(round(max(measured.lone_ms), 1), "ms")
    return found


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
    ratios = [one.cpu_us / other.cpu_us for one, other in zip(ours, parent, strict=False)]
    what = f"times the CPU a record of the commit before, median of {len(ratios)} pairs"
    return Figure(round(median(ratios), 3), what, PARENT_CPU, "lower")


def _ratios(rates: Mapping[str, float]) -> dict[str, Figure]:
    if "ours" not in rates:
        return {}
    others: Iterable[str] = [name for name in rates if not name.startswith("ours")]
    found = {
        f"ours_to_{name.replace('-', '_')}": Figure(
            round(rates["ours"] / rates[name], 2), f"times as fast as: {CONTENDERS[name].title}", TARGETS.get(name)
        )
        for name in others
    }
    if "ours-rocksdb" in rates:
        found["rocksdb_to_memory"] = Figure(
            round(rates["ours-rocksdb"] / rates["ours"], 2), "times the rate in memory", ROCKSDB_TO_MEMORY
        )
    return found


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
