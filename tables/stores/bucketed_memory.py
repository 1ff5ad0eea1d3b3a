"""A table store in memory that keeps its rows as bytes in buckets: for very many rows, each seldom read (`Layout.bucketed`).

The open turn works on decoded rows. `changes` encodes them once, and `commit` puts the bytes into the buckets. The price is one decode at
the first read of a row in a turn. The contract is in tables/table.py.
"""

from array import array
from collections.abc import Iterator
from typing import Generic, TypeVar

from tables.expiry_index import MINUTE, ExpiryIndex
from tables.layout import Layout
from tables.stores.buckets import Buckets
from tables.table import Place, Scanned

Row = TypeVar("Row")
REMEMBERED = 4096  # decoded rows kept in a turn that only read them; a turn seldom reads more


class BucketedMemoryTable(Generic[Row]):
    """Like MemoryTable, with a fifth of its memory for rows of some hundred bytes.

    It differs in three points: `get` returns a newly decoded row, at most once in a turn for each key; `load` decodes a row if the table
    expires rows; and the expiry index holds hashes of keys instead of keys. It never blocks and raises no errors of its own.
    """

    __slots__ = (
        "_before",
        "_changes",
        "_committed",
        "_expiry_index",
        "_number",
        "_read",
        "_time_of",
        "_turn",
        "layout",
    )
    position: int | None = None

    def __init__(self, layout: Layout[Row]) -> None:
        self.layout = layout
        self._time_of = layout.time_of
        self.reset()

    def reset(self) -> None:
        self._committed = Buckets()
        self._number = 0  # of rows, the open turn's included
        # key -> row as the open turn leaves it, and as it was before; None where there is none
        self._turn: dict[bytes, Row | None] = {}
        self._before: dict[bytes, Row | None] = {}
        self._read: dict[bytes, Row | None] = {}  # committed rows that the open turn has read
        self._changes: list[tuple[bytes, bytes | None]] | None = None  # encoded already
        self._expiry_index: ExpiryIndex[int] | None = None
        if self._time_of is not None:
            # hashes of keys: a key itself takes ten times as much memory
            self._expiry_index = ExpiryIndex(self._committed_time, lambda: array("q"))

    # --- rows -----------------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> Row | None:
        return self._turn[key] if key in self._turn else self._committed_row(key)

    def __contains__(self, key: bytes) -> bool:
        return self._turn[key] is not None if key in self._turn else key in self._committed

    def __len__(self) -> int:
        return self._number

    def items(self) -> Iterator[tuple[bytes, Row]]:
        turn, decode = dict(self._turn), self.layout.decode
        yield from ((key, decode(value)) for key, value in self._committed.items() if key not in turn)
        yield from ((key, row) for key, row in turn.items() if row is not None)

    def scan(self, start: Place | None, look: int, prefix: bytes = b"") -> Scanned:
        keys, following = self._committed.keys_from(start if isinstance(start, int) else 0, look)
        return Scanned([key for key in keys if key.startswith(prefix)], len(keys), following)

    def put(self, key: bytes, row: Row) -> None:
        self._number += self._touch(key) is None
        self._turn[key] = row

    def delete(self, key: bytes) -> None:
        if key in self:
            self._touch(key)
            self._number -= 1
            self._turn[key] = None

    def _touch(self, key: bytes) -> Row | None:
        """Takes the key into the open turn; returns its row before the change."""
        self._changes = None
        if key in self._turn:
            return self._turn[key]
        row = self._before[key] = self._committed_row(key)
        return row

    def _committed_row(self, key: bytes) -> Row | None:
        if key in self._before:
            return self._before[key]
        if key in self._read:
            return self._read[key]
        value = self._committed.get(key)
        row = None if value is None else self.layout.decode(value)
        if len(self._read) >= REMEMBERED:
            self._read.clear()
        self._read[key] = row
        return row

    # --- the open turn --------------------------------------------------------------------------------------------------

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        if self._changes is None:
            encode = self.layout.encode
            self._changes = [
                (key, None if row is None else encode(row))
                for key, row in self._turn.items()
                if row is not None or self._before[key] is not None  # a row made and deleted in one turn never existed
            ]
        return self._changes

    def commit(self, position: int | None = None) -> None:  # noqa: ARG002  # memory needs no position
        for key, value in self.changes():
            if value is None:
                self._committed.delete(key)
            else:
                self._committed.put(key, value)
                self._age(key, self._turn[key], self._before[key])
        self._forget_turn()

    def rollback(self) -> None:
        self._forget_turn()
        self._number = len(self._committed)

    def _forget_turn(self) -> None:
        self._turn.clear()
        self._before.clear()
        self._read.clear()
        self._changes = None

    # --- expiry ---------------------------------------------------------------------------------------------------------

    def oldest(self) -> int | None:
        return None if self._expiry_index is None else self._expiry_index.oldest()

    def expired(self, until: int, at_most: int) -> list[bytes]:
        keys: dict[bytes, None] = {}
        for hashed in () if self._expiry_index is None else self._expiry_index.due(until):
            for key in self._committed.keys_of(hashed):
                times = (self._time(self._committed_row(key)), self._time(self.get(key)))
                if len(keys) < at_most and all(at is not None and at <= until for at in times):
                    keys[key] = None
            if len(keys) >= at_most:
                break
        return list(keys)

    def _age(self, key: bytes, row: Row | None, before: Row | None) -> None:
        """Adds the key's row to the expiry index, unless the row before it was of the same minute."""
        at, was = self._time(row), self._time(before)
        if self._expiry_index is not None and at is not None and (was is None or was // MINUTE != at // MINUTE):
            self._expiry_index.add(hash(key), at)

    def _time(self, row: Row | None) -> int | None:
        return None if row is None or self._time_of is None else self._time_of(row)

    def _committed_time(self, hashed: int) -> int | None:
        times = (self._time(self._committed_row(key)) for key in self._committed.keys_of(hashed))
        return min((at for at in times if at is not None), default=None)

    # --- restore --------------------------------------------------------------------------------------------------------

    def load(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self._committed.delete(key)
        else:
            if self._expiry_index is not None:
                known = self._committed.get(key)
                decode = self.layout.decode
                self._age(key, decode(value), None if known is None else decode(known))
            self._committed.put(key, value)
        self._number = len(self._committed)

    def loaded(self, position: int) -> None:
        """Does nothing: `load` took every row at once."""

    def close(self) -> None:
        """Does nothing: there is nothing to release."""
