"""Which store keeps a table's rows: memory, or RocksDB on disk when they outgrow it. Both keep the contract of tables/table.py."""

from pathlib import Path
from typing import Any, Literal

from tables.layout import Layout
from tables.stores.bucketed_memory import BucketedMemoryTable
from tables.stores.memory import MemoryTable
from tables.stores.packed_memory import PackedMemoryTable
from tables.stores.rocksdb import RocksDBTable
from tables.table import Table

Kind = Literal["memory", "rocksdb"]


def open_partition(kind: Kind, layout: Layout[Any], folder: Path, identity: str) -> Table[Any]:
    """One partition of a table. `folder` is its own, of no other table and partition; memory needs none. `identity` says whose rows
    it holds: cluster id, changelog topic and partition number. Raises StoreInUse, StoreFailed."""
    if kind == "rocksdb":
        return RocksDBTable(layout, folder, identity=identity)
    if layout.bucketed:
        return BucketedMemoryTable(layout)
    return PackedMemoryTable(layout) if layout.packed else MemoryTable(layout)
