"""Speed and size of the stores in tables/stores/: `python -m benchmarks.stores [--rows 10000000] [--store memory --store rocksdb]`.

Each store has a process of its own on one core. It restores rows of `seen` with UUIDs as message ids into 12 partitions, as from a
changelog; then come turns of new and known ids, then expiry. Prints one line for each figure. The timed loop also makes the keys; the
time for that is measured and subtracted. Seconds are the CPU time of the process with its background threads, so other work on the
machine does not change them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tables.seen import SEEN, Seen
from tables.stores.factory import Kind, open_partition
from tables.table import Table

PARTITIONS = 12
LOADED = 20_000  # rows between two positions
TURN = 2_000
TURNS = 100
MS_BETWEEN_ROWS = 60  # 10,000,000 rows are a week


def keys(partition: int, start: int, stop: int) -> Iterator[bytes]:
    """Keys of `seen` with ids as producers make them: 36 characters, in no order."""
    for number in range(start, stop):
        digits = f"{(number * 0x9E3779B97F4A7C15F39CC0605CEDC835 + partition) & (1 << 128) - 1:032x}"
        yield f"default/{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}".encode()


def restore(table: Table[Any], partition: int, rows: int) -> None:
    encode, digest = SEEN.encode, b"\x07" * 8
    for start in range(0, rows, LOADED):
        stop = min(rows, start + LOADED)
        for number, key in enumerate(keys(partition, start, stop), start):
            table.load(key, encode(Seen(digest, number * MS_BETWEEN_ROWS)))
        table.loaded(stop)


class Nothing:
    """A table that drops its rows, to measure what making them costs."""

    def load(self, key: bytes, value: bytes | None) -> None: ...

    def loaded(self, position: int) -> None: ...


def turns(table: Table[Any], partition: int, rows: int) -> float:
    """Rows a second over TURNS turns: every id is looked up and written, every tenth is looked up again."""
    digest, seconds = b"\x07" * 8, 0.0
    for turn in range(TURNS):
        fresh = list(keys(partition, rows + turn * TURN, rows + (turn + 1) * TURN))
        began = time.process_time()
        for number, key in enumerate(fresh):
            if table.get(key) is None:
                table.put(key, Seen(digest, rows * MS_BETWEEN_ROWS + turn))
            if number % 10 == 0:
                table.get(key)
        table.changes()
        table.commit(rows + (turn + 1) * TURN)
        seconds += time.process_time() - began
    return TURNS * TURN / seconds


def lookups(table: Table[Any], partition: int, rows: int) -> float:
    """Microseconds to read one row, over rows in no order."""
    wanted = [next(keys(partition, number, number + 1)) for number in range(0, rows, max(1, rows // 20_000))]
    began = time.process_time()
    if not all(table.get(key) is not None for key in wanted):
        raise SystemExit("a row that was written is missing")
    return (time.process_time() - began) / len(wanted) * 1e6


def expiry(table: Table[Any], rows: int) -> float:
    """Rows a second that expire, 1000 in a turn, with their tombstones."""
    position, gone = rows + TURNS * TURN, 0
    began = time.process_time()
    while gone < min(rows, 100_000):
        for key in table.expired(rows * MS_BETWEEN_ROWS, 1000):
            table.delete(key)
        gone += len(table.changes())
        position += 1000
        table.commit(position)
        table.oldest()
    return gone / (time.process_time() - began)


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def measure(kind: Kind, rows: int, folder: Path) -> None:
    each = rows // PARTITIONS
    empty = resident()
    began = time.process_time()
    restore(Nothing(), 0, each)  # type: ignore[arg-type]  # only what `restore` asks of it
    making = (time.process_time() - began) * PARTITIONS
    tables: list[Table[Any]] = []
    began = time.process_time()
    for partition in range(PARTITIONS):
        tables.append(open_partition(kind, SEEN, folder / str(partition), f"bench/{partition}"))
        restore(tables[-1], partition, each)
    seconds = time.process_time() - began - making
    say(kind, "rows restored", f"{each * PARTITIONS:,}")
    say(kind, "restore, rows/s", f"{each * PARTITIONS / seconds:,.0f}")
    say(kind, "resident, MB", f"{resident() / 1e6:,.0f} ({(resident() - empty) / rows:.0f} bytes a row)")
    say(kind, "turns, rows/s", f"{turns(tables[0], 0, each):,.0f}")
    say(kind, "lookup, us", f"{lookups(tables[1], 1, each):.2f}")
    say(kind, "expiry, rows/s", f"{expiry(tables[0], each):,.0f}")
    if kind == "rocksdb":
        for table in tables:
            table.close()
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        say(kind, "on disk, bytes a row", f"{size / rows:.0f}")
        began = time.process_time()
        tables = [open_partition(kind, SEEN, folder / str(p), f"bench/{p}") for p in range(PARTITIONS)]
        if not all(table.oldest() is not None for table in tables):
            raise SystemExit("an opened table is empty")
        say(kind, "open again, s", f"{time.process_time() - began:.2f} ({sum(map(len, tables)):,} rows)")


def say(kind: str, name: str, value: str) -> None:
    print(f"{kind:<8} {name:<22} {value}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--store", action="append", choices=["memory", "rocksdb"])
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--here", type=Path, help="measure in this process, with this folder")
    given = parser.parse_args()
    if given.here:
        os.sched_setaffinity(0, {given.core})
        measure(given.store[0], given.rows, given.here)
        return
    for store in given.store or ["memory", "rocksdb"]:
        folder = Path(tempfile.mkdtemp(prefix="bench-stores-"))
        arguments = ["--rows", str(given.rows), "--core", str(given.core), "--store", store, "--here", str(folder)]
        try:
            subprocess.run([sys.executable, "-m", "benchmarks.stores", *arguments], check=True)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
