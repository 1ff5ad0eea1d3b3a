"""Chooses the store of a table: in memory, or RocksDB on disk if the rows do not fit into memory. Each keeps the contract of
tables/table.py."""

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
    """Opens one partition of a table. Opening a store on disk blocks; opening one in memory does not.

    `folder` belongs to this table and partition alone; a store in memory does not use it. `identity` names what the rows come from: cluster
    id, changelog topic, topic id and partition number. A store on disk with another identity is emptied. Raises StoreInUse and StoreFailed.
    """
    if kind == "rocksdb":
        return RocksDBTable(layout, folder, identity=identity)
    if layout.bucketed:
        return BucketedMemoryTable(layout)
    return PackedMemoryTable(layout) if layout.packed else MemoryTable(layout)
