"""One changelog for all tables of a partition: the table's name is part of the key of each row.

Enters: changelog records in offset order. Leaves: each row in its table. A table on disk knows its own position in the changelog, so that
rows which it already has are skipped. Rows of tables that no longer exist are ignored.
"""

from collections.abc import Mapping
from typing import Any

from tables.table import Table

SEPARATOR = b"/"


def prefix_of(table: str) -> bytes:
    """The prefix of the keys of a table's rows."""
    return table.encode() + SEPARATOR


class OneTable:
    """A changelog of one table. For the thread that restores; blocks only as the table's store does."""

    def __init__(self, table: Table[Any]) -> None:
        self._table = table

    def start(self, low: int, high: int) -> tuple[int, bool]:
        """The offset from which to read, between the changelog's first offset `low` and its end `high`, and whether the table was emptied
        because its position was outside."""
        return _start(self._table, low, high)

    def load(self, key: bytes, value: bytes | None, offset: int) -> None:  # noqa: ARG002  # reading starts at its position
        self._table.load(key, value)

    def loaded(self, position: int) -> None:
        self._table.loaded(position)

    def close(self) -> None:
        self._table.close()


class SharedChangelog:
    """A changelog of several tables of one partition, by name. Same methods as OneTable."""

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
