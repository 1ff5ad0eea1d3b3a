"""A table store in memory that keeps each row as its bytes: for tables of very many small rows (`Layout.packed`).

A row of `seen` takes 48 bytes in this way instead of 150, and Python's garbage collector has no objects to visit. The price is one decode
at each read that finds a row.
"""

from collections.abc import Iterator
from typing import TypeVar

from tables.stores.memory import MemoryTable

Row = TypeVar("Row")


class PackedMemoryTable(MemoryTable[Row]):
    """Like MemoryTable, but `_rows` and `_before` hold encoded rows: `put` encodes, `get` and `items` decode, each time they are called."""

    __slots__ = ()

    def items(self) -> Iterator[tuple[bytes, Row]]:
        decode = self.layout.decode
        return ((key, decode(value)) for key, value in self._rows.items())

    def get(self, key: bytes) -> Row | None:
        value = self._rows.get(key)
        return None if value is None else self.layout.decode(value)

    def put(self, key: bytes, row: Row) -> None:
        if key not in self._before:
            self._before[key] = self._rows.get(key)
        self._rows[key] = self.layout.encode(row)

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        rows = self._rows
        return [(key, rows.get(key)) for key, before in self._before.items() if before is not None or key in rows]

    def load(self, key: bytes, value: bytes | None) -> None:
        self._load(key, value)

    def _time(self, row: bytes | None) -> int | None:
        return None if row is None or self._time_of is None else self._time_of(self.layout.decode(row))
