"""A table store in memory: a dict of rows, and the rows as they were before the open turn. The contract is in tables/table.py.

A turn writes directly into the rows, and can be rolled back until it is committed. Nothing survives the process: a restore always starts at
the beginning of the changelog.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

from tables.expiry_index import MINUTE, ExpiryIndex
from tables.layout import Layout
from tables.table import Place, Scanned

Row = TypeVar("Row")


class MemoryTable(Generic[Row]):
    """Keeps rows as the objects they are: the fastest store. PackedMemoryTable takes less memory for small rows.

    It never blocks, raises no errors of its own and ignores positions. `commit` and `rollback` cost time for each row of the turn only.
    """

    __slots__ = ("_before", "_expiry_index", "_rows", "_time_of", "layout")
    position: int | None = None

    def __init__(self, layout: Layout[Row]) -> None:
        self.layout = layout
        # key -> row, or its bytes in a subclass
        self._rows: dict[bytes, Any] = {}
        # key -> row before the open turn, None where there was none
        self._before: dict[bytes, Any] = {}
        self._time_of = layout.time_of
        self._expiry_index: ExpiryIndex[bytes] | None = (
            None if layout.time_of is None else ExpiryIndex(self._committed_time)
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def items(self) -> Iterator[tuple[bytes, Row]]:
        return iter(self._rows.items())

    def scan(self, start: Place | None, look: int, prefix: bytes = b"") -> Scanned:
        first = start if isinstance(start, int) else 0
        keys = list(islice(self._rows, first, first + look))
        end = first + len(keys)
        found = [key for key in keys if key.startswith(prefix)] if prefix else keys
        return Scanned(found, len(keys), end if end < len(self._rows) else None)

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
        encode = self.layout.encode
        rows = self._rows
        return [
            (key, encode(rows[key]) if key in rows else None)
            for key, before in self._before.items()
            if before is not None or key in rows  # a row made and deleted in one turn never existed
        ]

    def commit(self, position: int | None = None) -> None:  # noqa: ARG002  # memory needs no position
        if self._expiry_index is not None:
            for key, before in self._before.items():
                self._age(key, before)
        self._before.clear()

    def rollback(self) -> None:
        for key, before in self._before.items():
            if before is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = before
        self._before.clear()

    def oldest(self) -> int | None:
        return None if self._expiry_index is None else self._expiry_index.oldest()

    def expired(self, until: int, at_most: int) -> list[bytes]:
        keys: dict[bytes, None] = {}
        for key in () if self._expiry_index is None else self._expiry_index.due(until):
            if len(keys) == at_most:
                break
            at = self._time(self._rows.get(key)) if key in self._before else until
            if at is not None and at <= until:
                keys[key] = None
        return list(keys)

    def load(self, key: bytes, value: bytes | None) -> None:
        self._load(key, None if value is None else self.layout.decode(value))

    def loaded(self, position: int) -> None:
        """Does nothing: `load` took every row at once."""

    def reset(self) -> None:
        self._rows.clear()
        self._before.clear()
        self._expiry_index = None if self._time_of is None else ExpiryIndex(self._committed_time)

    def close(self) -> None:
        """Does nothing: there is nothing to release."""

    def _load(self, key: bytes, row: Any) -> None:
        if row is None:
            self._rows.pop(key, None)
        elif self._expiry_index is None:
            self._rows[key] = row
        else:
            before = self._rows.get(key)
            self._rows[key] = row
            self._age(key, before)

    def _age(self, key: bytes, before: Any) -> None:
        """Adds the key's row to the expiry index, unless `before`, the row it replaces, was of the same minute."""
        at = self._time(self._rows.get(key))
        if at is None or self._expiry_index is None:
            return
        was = self._time(before)
        if was is None or was // MINUTE != at // MINUTE:
            self._expiry_index.add(key, at)

    def _time(self, row: Any) -> int | None:
        return None if row is None or self._time_of is None else self._time_of(row)

    def _committed_time(self, key: bytes) -> int | None:
        return self._time(self._before[key] if key in self._before else self._rows.get(key))
