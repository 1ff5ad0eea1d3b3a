"""One changelog for all tables of a partition: the table's name stands in the key of each row.

In: changelog records in their order, with their offsets. Out: each to its table. Every table on disk knows how far it stands itself, so
rows that it has already are passed over. Rows of a table that is no more are left alone.
"""

from collections.abc import Mapping
from typing import Any

from tables.table import Table

SEPARATOR = b"/"


def prefix_of(table: str) -> bytes:
    """What the keys of a table's rows begin with."""
    return table.encode() + SEPARATOR


class OneTable:
    """A changelog of a table's own."""

    def __init__(self, table: Table[Any]) -> None:
        self._table = table

    def start(self, low: int, high: int) -> tuple[int, bool]:
        """Where to read from, within what there is, and whether the table was emptied: it stood on another changelog."""
        return _start(self._table, low, high)

    def load(self, key: bytes, value: bytes | None, offset: int) -> None:  # noqa: ARG002  # it is read from where it stands
        self._table.load(key, value)

    def loaded(self, position: int) -> None:
        self._table.loaded(position)

    def close(self) -> None:
        self._table.close()


class SharedChangelog:
    """The changelog of several tables of one partition, by name."""

    def __init__(self, tables: Mapping[str, Table[Any]]) -> None:
        self._tables = {name.encode(): table for name, table in tables.items()}
        self._starts: dict[bytes, int] = {}

    def start(self, low: int, high: int) -> tuple[int, bool]:
        starts = {name: _start(table, low, high) for name, table in self._tables.items()}
        self._starts = {name: start for name, (start, _) in starts.items()}
        return min(self._starts.values(), default=high), any(emptied for _, emptied in starts.values())

    def load(self, key: bytes, value: bytes | None, offset: int) -> None:
        name, _, own = key.partition(SEPARATOR)
        table = self._tables.get(name)
        if table is not None and offset >= self._starts[name]:
            table.load(own, value)

    def loaded(self, position: int) -> None:
        for name, table in self._tables.items():
            if position >= self._starts[name]:
                table.loaded(position)

    def close(self) -> None:
        for table in self._tables.values():
            table.close()


def _start(table: Table[Any], low: int, high: int) -> tuple[int, bool]:
    position = table.position
    if position is None:
        return low, False
    if low <= position <= high:
        return position, False
    table.reset()
    return low, True
