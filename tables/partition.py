"""One partition of one table, in memory: rows by key, and what the open turn changed.

A turn writes straight into the rows and can be rolled back until it is settled. `changes` is what the turn's transaction puts
on the changelog: the last value of every touched key. Not safe for threads: a partition belongs to one event loop.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

from tables.layout import Layout

Row = TypeVar("Row")


class TablePartition(Generic[Row]):
    """Keys are bytes as on the changelog; rows are immutable values of the layout's class."""

    __slots__ = ("_before", "_rows", "layout")

    def __init__(self, layout: Layout[Row]) -> None:
        self.layout = layout
        self._rows: dict[bytes, Row] = {}
        # key -> row before the open turn, None where there was none
        self._before: dict[bytes, Row | None] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def items(self) -> Iterator[tuple[bytes, Row]]:
        return iter(self._rows.items())

    def get(self, key: bytes) -> Row | None:
        return self._rows.get(key)

    def put(self, key: bytes, row: Row) -> None:
        if key not in self._before:
            self._before[key] = self._rows.get(key)
        self._rows[key] = row

    def delete(self, key: bytes) -> None:
        row = self._rows.pop(key, None)
        if row is not None and key not in self._before:
            self._before[key] = row

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """Changelog records of the open turn: key and new value, None for a deleted row."""
        encode = self.layout.encode
        rows = self._rows
        return [
            (key, encode(rows[key]) if key in rows else None)
            for key, before in self._before.items()
            if before is not None or key in rows  # a row made and deleted in one turn never existed
        ]

    def settle(self) -> None:
        """The open turn's changes are handed over; the next turn starts clean."""
        self._before.clear()

    def rollback(self) -> None:
        """Forgets the open turn's changes."""
        for key, before in self._before.items():
            if before is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = before
        self._before.clear()

    def load(self, key: bytes, value: bytes | None) -> None:
        """Takes one changelog record while the table is restored."""
        if value is None:
            self._rows.pop(key, None)
        else:
            self._rows[key] = self.layout.decode(value)
