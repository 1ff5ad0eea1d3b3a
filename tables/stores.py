"""Which store keeps a table's rows: memory, or RocksDB on disk when they outgrow it. Both keep the contract of tables/table.py."""

from pathlib import Path
from typing import Any, Literal

from tables.bucketed import BucketTablePartition
from tables.layout import Layout
from tables.packed import PackedTablePartition
from tables.partition import TablePartition
from tables.rocks import RocksTablePartition
from tables.table import Table

Kind = Literal["memory", "rocksdb"]


def open_partition(kind: Kind, layout: Layout[Any], folder: Path, identity: str) -> Table[Any]:
    """One partition of a table. `folder` is its own, of no other table and partition; memory needs none. `identity` says whose rows
    it holds: cluster id, changelog topic and partition number. Raises StoreInUse, StoreFailed."""
    if kind == "rocksdb":
        return RocksTablePartition(layout, folder, identity=identity)
    if layout.bucketed:
        return BucketTablePartition(layout)
    return PackedTablePartition(layout) if layout.packed else TablePartition(layout)
