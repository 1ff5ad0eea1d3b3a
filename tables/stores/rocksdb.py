"""A table store on disk: one partition of one table in a RocksDB database of its own. The contract is in tables/table.py.

The changes of a turn stay in memory until `commit`. Then its rows, the changelog position after them, the number of rows and the expiry
index are one atomic write. The write is not synced: after a crash of the machine the store may be behind its changelog, and a restore
continues from its position. The store is never ahead of its changelog, because nothing is written before the turn's transaction has
committed.
"""

import struct
from collections.abc import Iterable, Iterator
from mmap import mmap
from pathlib import Path
from typing import Generic, TypeVar

from rocksdict import WriteBatch

from tables.layout import Layout
from tables.stores.rocksdb_folder import FILES, FILES_WHILE_FILLED, STATE, RocksDBFolder
from tables.table import Place, Scanned

Row = TypeVar("Row")
FORMAT = 1  # of the entries below; a store of another format is rebuilt
# Entries: STATE -> position or -1, number of rows
_AGE = b"\x01"  # _AGE + time of the row, 8 bytes + key -> empty: the expiry index
_ROW = b"\x02"  # _ROW + key -> row
_END = b"\x03"  # after every entry
_STATE_VALUE = struct.Struct(">qQ")
_TIME = struct.Struct(">Q")
# rows given to `load` that wait in memory at most; then they are written, with the position before them
LOADED_ROWS = 25_000
MET_SLOTS = 1 << 22  # bytes of memory, while an empty store is filled
CACHED_ROWS = 1024  # decoded rows in each of two generations
SCANNED_ROWS = 1024  # rows in one read of `items`
AGELESS = -1  # stands for the time of a row that never expires


class RocksDBTable(Generic[Row]):
    """The store that keeps a position, and the only one that blocks: opening, `get`, `put`, `delete`, `items`, `oldest` and `expired` may
    read the disk; `commit`, `load`, `loaded`, `reset` and `close` may write to it. All raise StoreFailed.

    `identity` names what the rows come from (cluster, changelog topic and its id, partition). If the folder holds a store of another
    identity, layout version or format, it is emptied. A cache of 1,024 to 2,048 decoded rows serves most repeated reads.
    """

    def __init__(self, layout: Layout[Row], folder: Path, *, identity: str) -> None:
        self.layout = layout
        self._time_of = layout.time_of
        self._database = RocksDBFolder(folder, f"chat4all table {FORMAT}: {layout.name} {layout.version}, {identity}")
        # key -> row as the open turn leaves it, and time of the row it had before; None where there is no row
        self._turn: dict[bytes, Row | None] = {}
        self._before: dict[bytes, int | None] = {}
        self._expired: dict[bytes, int] = {}  # key -> time, for keys that `expired` returned in the open turn
        self._changes: list[tuple[bytes, bytes | None]] | None = None  # encoded already
        self._loading: dict[bytes, bytes | None] = {}
        self._start()

    def _start(self) -> None:
        state = self._database.get(STATE)
        position: int
        position, self._committed_rows = (-1, 0) if state is None else _STATE_VALUE.unpack(state)
        if position < 0 and self._committed_rows:
            self._database.clear()  # a restore ended before its first position: how far it came is not known
            self._committed_rows = 0
        self.position: int | None = None if position < 0 else position
        self._rows: int = self._committed_rows  # as the open turn sees it
        # committed rows read or written recently, None for keys without a row; the rows of `_cached_older` are dropped first
        self._cached: dict[bytes, Row | None] = {}
        self._cached_older: dict[bytes, Row | None] = {}
        # For a store that was empty: one byte per slot of key hashes, set once a key of the slot was loaded. A key whose slot is 0 is new
        # and need not be looked up. The system gives memory only to the pages that are written.
        self._met = None if self._committed_rows else mmap(-1, MET_SLOTS)
        if self._met is not None:
            self._database.merge_above(FILES_WHILE_FILLED)
        # The first entry of the expiry index, None if there is none. If `_first_age_from` is set, the first entry is not known, and a
        # search for it has to start there.
        self._first_age: bytes | None = None
        self._first_age_from: bytes | None = _AGE

    # --- rows -----------------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> Row | None:
        if key in self._turn:
            return self._turn[key]
        return self._committed(key)

    def __contains__(self, key: bytes) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        return self._rows

    def items(self) -> Iterator[tuple[bytes, Row]]:
        turn, decode = dict(self._turn), self.layout.decode
        start = _ROW
        while start:
            entries = self._database.scan(start, _END, SCANNED_ROWS)
            start = entries[-1][0] + b"\x00" if len(entries) == SCANNED_ROWS else b""
            for entry, value in entries:
                if entry[1:] not in turn:
                    yield entry[1:], decode(value)
        yield from ((key, row) for key, row in turn.items() if row is not None)

    def scan(self, start: Place | None, look: int, prefix: bytes = b"") -> Scanned:
        first = start if isinstance(start, bytes) else prefix
        entries = self._database.scan(_ROW + first, _after(_ROW + prefix), look)
        keys = [entry[1:] for entry, _ in entries]
        return Scanned(keys, len(keys), keys[-1] + b"\x00" if len(keys) == look else None)

    def put(self, key: bytes, row: Row) -> None:
        was = self._time_now(key)
        if key not in self._turn:
            self._before[key] = was
        self._rows += was is None
        self._turn[key] = row
        self._changes = None

    def delete(self, key: bytes) -> None:
        was = self._time_now(key)
        if was is None:
            return
        if key not in self._turn:
            self._before[key] = was
        self._rows -= 1
        self._turn[key] = None
        self._changes = None

    def _time_now(self, key: bytes) -> int | None:
        """Like `_time`, for the key's row as the open turn sees it."""
        if key in self._turn:
            return self._time(self._turn[key])
        if key in self._expired:
            return self._expired[key]
        return self._time(self._committed(key))

    def _committed(self, key: bytes) -> Row | None:
        cached = self._cached
        if key in cached:
            return cached[key]
        if key in self._cached_older:
            row = self._cached_older[key]
        else:
            value = self._database.get(_ROW + key)
            row = None if value is None else self.layout.decode(value)
        self._remember(key, row)
        return row

    def _remember(self, key: bytes, row: Row | None) -> None:
        self._cached[key] = row
        if len(self._cached) >= CACHED_ROWS:
            self._cached_older, self._cached = self._cached, {}

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

    def rollback(self) -> None:
        self._forget_turn()
        self._rows = self._committed_rows

    def commit(self, position: int | None = None) -> None:
        changes = self.changes()
        if changes and position is None:
            raise ValueError(f"table {self.layout.name}: rows were changed, and no position was given")
        if self._met is not None:
            self._met = None
            self._database.merge_above(FILES)
        batch = WriteBatch(raw_mode=True)
        for key, value in changes:
            row = self._turn[key]
            self._add(batch, key, self._before[key], value, self._time(row))
            self._remember(key, row)
        self._forget_turn()
        if position is not None:
            self._write(batch, position)

    def _forget_turn(self) -> None:
        self._turn.clear()
        self._before.clear()
        self._expired.clear()
        self._changes = None

    # --- expiry ---------------------------------------------------------------------------------------------------------

    def oldest(self) -> int | None:
        entry = self._first()
        return None if entry is None else _time_in(entry)

    def expired(self, until: int, at_most: int) -> list[bytes]:
        first = self._first()
        if first is None or _time_in(first) > until:
            return []
        keys: list[bytes] = []
        start, end = first, _AGE + _TIME.pack(until + 1)
        while start and len(keys) < at_most:
            entries = self._database.scan(start, end, at_most)
            start = entries[-1][0] + b"\x00" if len(entries) == at_most else b""
            for entry, _ in entries:
                key = entry[9:]
                if key not in self._turn:
                    self._expired[key] = _time_in(entry)
                    keys.append(key)
                elif (at := self._time(self._turn[key])) is not None and AGELESS < at <= until:
                    keys.append(key)
        return keys[:at_most]

    def _first(self) -> bytes | None:
        """The first entry of the expiry index; None if it is empty."""
        if self._first_age_from is not None:
            entries = self._database.scan(self._first_age_from, _ROW, 1)
            self._first_age, self._first_age_from = entries[0][0] if entries else None, None
        return self._first_age

    # --- restore --------------------------------------------------------------------------------------------------------

    def load(self, key: bytes, value: bytes | None) -> None:
        self._loading[key] = value
        if len(self._loading) >= LOADED_ROWS:
            # The rows are now ahead of the position. That does no harm: a restore from there writes the same rows again.
            self._write_loaded(self.position)

    def loaded(self, position: int) -> None:
        if self._loading or position != self.position:
            self._write_loaded(position)

    def _write_loaded(self, position: int | None) -> None:
        rows, self._loading = sorted(self._loading.items()), {}  # RocksDB reads and writes faster in order
        befores = self._stored(key for key, _ in rows)
        batch = WriteBatch(raw_mode=True)
        time_of = self._time_of_value
        for key, value in rows:
            before = befores.get(key)
            if value is not None or before is not None:
                self._rows += (value is not None) - (before is not None)
                self._add(batch, key, time_of(before), value, time_of(value))
        self._cached.clear()
        self._cached_older.clear()
        self._write(batch, position)

    def _stored(self, keys: Iterable[bytes]) -> dict[bytes, bytes | None]:
        """The stored values of keys. Of the keys that are not stored, most are left out and the others have None."""
        met = self._met
        if met is not None:
            slots = [(hash(key) % MET_SLOTS, key) for key in keys]
            keys = [key for slot, key in slots if met[slot]]
            for slot, _ in slots:
                met[slot] = 1
        asked = list(keys)
        return dict(zip(asked, self._database.get_many([_ROW + key for key in asked]), strict=True))

    def reset(self) -> None:
        self._forget_turn()
        self._loading.clear()
        self._database.clear()
        self._start()

    def close(self) -> None:
        self._database.close()

    # --- writing --------------------------------------------------------------------------------------------------------

    def _add(self, batch: WriteBatch, key: bytes, was: int | None, value: bytes | None, at: int | None) -> None:
        """Adds one row to the batch, and moves its entry of the expiry index from the time `was` to the time `at`."""
        if value is None:
            batch.delete(_ROW + key)
        else:
            batch.put(_ROW + key, value)
        if was != at:
            if was is not None and was != AGELESS:
                entry = _AGE + _TIME.pack(was) + key
                batch.delete(entry)
                if entry == self._first_age:
                    self._first_age, self._first_age_from = None, entry
            if at is not None and at != AGELESS:
                entry = _AGE + _TIME.pack(at) + key
                batch.put(entry, b"")
                self._note_age(entry)

    def _note_age(self, entry: bytes) -> None:
        if self._first_age_from is not None:
            self._first_age_from = min(self._first_age_from, entry)
        elif self._first_age is None or entry < self._first_age:
            self._first_age = entry

    def _write(self, batch: WriteBatch, position: int | None) -> None:
        if position is not None and self.position is not None and position < self.position:
            raise ValueError(f"table {self.layout.name}: position {position} is before the store's, {self.position}")
        batch.put(STATE, _STATE_VALUE.pack(-1 if position is None else position, self._rows))
        self._database.write(batch)
        self.position, self._committed_rows = position, self._rows

    def _time(self, row: Row | None) -> int | None:
        """The time of a row; AGELESS if it never expires, None if there is no row."""
        if row is None:
            return None
        at = None if self._time_of is None else self._time_of(row)
        return AGELESS if at is None else at

    def _time_of_value(self, value: bytes | None) -> int | None:
        return None if value is None else AGELESS if self._time_of is None else self._time(self.layout.decode(value))


def _after(prefix: bytes) -> bytes:
    """The first entry after every entry that begins with this prefix, which begins with _ROW."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes((kept[-1] + 1,))


def _time_in(entry: bytes) -> int:
    at: int = _TIME.unpack_from(entry, 1)[0]
    return at
