"""The contract of tables/table.py as a model: any store, any order of turns, rollbacks, restores, restarts and expiry.

The model is two dicts (the committed rows, the rows as the open turn sees them) and the changelog. After every step the store must agree
with it.
"""

import shutil
import tempfile
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import orjson
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tables.expiry_index import MINUTE
from tables.layout import Layout
from tables.stores.factory import Kind, open_partition
from tables.table import Table


class Note(NamedTuple):
    number: int
    at: int | None


class NoteLayout:
    """Rows with a time, or without one."""

    name = "notes"
    version = 1
    keyed_by_record = False
    time_of = attrgetter("at")

    def __init__(self, *, packed: bool = False, bucketed: bool = False) -> None:
        self.packed = packed
        self.bucketed = bucketed

    def encode(self, row: Note) -> bytes:
        return orjson.dumps(list(row))

    def decode(self, value: bytes) -> Note:
        return Note(*orjson.loads(value))

    def as_json(self, row: Note) -> Any:
        return row._asdict()


class AgelessLayout(NoteLayout):
    """The same rows in a table whose rows never expire."""

    time_of = None  # type: ignore[assignment]  # as in the layouts of most tables


class Store(NamedTuple):
    kind: Kind
    layout: Layout[Any]


STORES = {
    "memory": Store("memory", NoteLayout()),
    "packed": Store("memory", NoteLayout(packed=True)),
    "bucketed": Store("memory", NoteLayout(bucketed=True)),
    "rocksdb": Store("rocksdb", NoteLayout()),
    "ageless": Store("memory", AgelessLayout()),
    "ageless_bucketed": Store("memory", AgelessLayout(bucketed=True)),
    "ageless_rocksdb": Store("rocksdb", AgelessLayout()),
}
# Among them: keys that look like a store's own, that begin with one another, and an empty one.
KEYS = st.sampled_from([b"", b"\x00", b"\x00state", b"a", b"a\x00", b"ab", "ação".encode(), b"\x01", b"\xff\xff"])
TIMES = st.sampled_from([None, 0, 1, 5, 30_000, MINUTE - 1, MINUTE, MINUTE + 1, 2 * MINUTE, 3 * MINUTE - 1, 9 * MINUTE])
NOTES = st.builds(Note, st.integers(0, 9), TIMES)


class TableMachine(RuleBasedStateMachine):
    """One partition and the model of its rows. The subclass sets `store`."""

    store: ClassVar[Store]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="table-contract-"))
        self.changelog: list[tuple[bytes, bytes | None]] = []
        self.committed: dict[bytes, Note] = {}
        self.turn: dict[bytes, Note] = {}
        self.touched: dict[bytes, None] = {}
        self.table = self.opened()

    def teardown(self) -> None:
        self.table.close()
        shutil.rmtree(self.folder)

    def opened(self) -> Table[Any]:
        return open_partition(self.store.kind, self.store.layout, self.folder / "store", "cluster/notes/0")

    # --- a turn ---------------------------------------------------------------------------------------------------------

    @rule(key=KEYS, row=NOTES)
    def put(self, key: bytes, row: Note) -> None:
        self.table.put(key, row)
        self.turn[key] = row
        self.touched[key] = None

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        self.table.delete(key)
        if key in self.turn:
            del self.turn[key]
            self.touched[key] = None

    @rule()
    def commit(self) -> None:
        changes = self.table.changes()
        self.changelog += changes
        self.table.commit(len(self.changelog) if changes else None)
        self.committed = dict(self.turn)
        self.touched.clear()

    @rule()
    def roll_back(self) -> None:
        self.table.rollback()
        self._forget_turn()

    # --- expiry ---------------------------------------------------------------------------------------------------------

    @rule(until=TIMES.filter(lambda at: at is not None), at_most=st.integers(1, 4))
    def ask_for_the_expired(self, until: int, at_most: int) -> None:
        keys = self.table.expired(until, at_most)
        due = {k for k, at in self._times(self.committed).items() if at <= until and self._at(self.turn.get(k), until)}
        assert len(keys) == len(set(keys)) <= at_most
        assert set(keys) <= due, "never one that is younger"
        minutes = [self._times(self.committed)[key] // MINUTE for key in keys]
        assert minutes == sorted(minutes), "the oldest minute first"
        if self.store.kind == "rocksdb":
            assert keys == sorted(due, key=lambda key: (self._times(self.committed)[key], key))[:at_most]
        surely = {key for key in due if self._times(self.committed)[key] // MINUTE < until // MINUTE}
        assert len(keys) == at_most or surely <= set(keys), "every row of an earlier minute"

    @precondition(lambda self: not self.touched)
    @rule(until=TIMES.filter(lambda at: at is not None))
    def expire_all(self, until: int) -> None:
        """As a stage does: only `oldest` shows it when to call `expired`."""
        while (oldest := self.table.oldest()) is not None and oldest <= until:
            keys = self.table.expired(until, 2)
            assert keys, "at least one key while a row is due"
            for key in keys:
                self.delete(key)
            self.commit()
        assert all(at // MINUTE >= until // MINUTE for at in self._times(self.committed).values())

    # --- restarts -------------------------------------------------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        """The open turn is lost. Committed rows come from the store and the rest of the changelog."""
        before = self.table.position
        self.table.close()
        self.table = self.opened()
        assert self.table.position == before
        self._forget_turn()
        self._restore()

    @rule()
    def lose_the_store(self) -> None:
        self.table.close()
        shutil.rmtree(self.folder / "store", ignore_errors=True)
        self.table = self.opened()
        assert self.table.position is None
        self._forget_turn()
        self._restore()

    @rule()
    def find_another_changelog(self) -> None:
        self.table.reset()
        assert (self.table.position, len(self.table), self.table.oldest()) == (None, 0, None)
        self.changelog, self.committed = [], {}
        self._forget_turn()

    @rule(rows=st.lists(st.tuples(KEYS, st.none() | NOTES), max_size=8), taken=st.integers(0, 8))
    def restore_after_another_owner(self, rows: Sequence[tuple[bytes, Note | None]], taken: int) -> None:
        """Another owner wrote `rows`. A first restore was interrupted after `taken` of them."""
        self.roll_back()
        start = len(self.changelog)
        for key, row in rows:
            self.changelog.append((key, None if row is None else self.store.layout.encode(row)))
            if row is None:
                self.committed.pop(key, None)
            else:
                self.committed[key] = row
        for key, value in self.changelog[start : start + taken]:
            self.table.load(key, value)
        self.restart()

    def _restore(self) -> None:
        start = self.table.position or 0
        for at, (key, value) in enumerate(self.changelog[start:], start):
            self.table.load(key, value)
            if at % 5 == 4:
                self.table.loaded(at + 1)
        self.table.loaded(len(self.changelog))

    def _forget_turn(self) -> None:
        self.turn = dict(self.committed)
        self.touched.clear()

    # --- what must always hold ------------------------------------------------------------------------------------------

    @invariant()
    def rows_are_those_of_the_model(self) -> None:
        assert dict(self.table.items()) == self.turn
        assert len(list(self.table.items())) == len(self.table) == len(self.turn)
        for key in (*self.turn, *self.committed, b"never"):
            assert self.table.get(key) == self.turn.get(key)
            assert (key in self.table) == (key in self.turn)

    @rule(prefix=st.sampled_from([b"", b"a", b"\x00", b"\xff", b"\xff\xff", b"never"]), look=st.integers(1, 4))
    def scan_it(self, prefix: bytes, look: int) -> None:
        """Part after part: every row that the turn has not added or deleted comes once."""
        start, keys, parts = None, [], 0
        while parts == 0 or start is not None:
            part = self.table.scan(start, look, prefix)
            assert len(part.keys) <= part.looked
            keys += part.keys
            start, parts = part.following, parts + 1
            assert parts <= len(self.turn) + len(self.committed) + 64, "it ends"
        assert len(keys) == len(set(keys))
        assert all(key.startswith(prefix) for key in keys)
        surely = {key for key in self.turn.keys() & self.committed.keys() if key.startswith(prefix)}
        assert surely <= set(keys) <= self.turn.keys() | self.committed.keys()

    @rule(key=KEYS)
    def scan_while_rows_are_added(self, key: bytes) -> None:
        """What was there before the first part, and stayed, is not left out."""
        before = self.turn.keys() & self.committed.keys()
        first = self.table.scan(None, 1)
        self.put(key, Note(1, None))
        self.commit()
        keys, start = set(first.keys), first.following
        while start is not None:
            part = self.table.scan(start, 1)
            keys, start = keys | set(part.keys), part.following
        assert before - {key} <= keys

    @invariant()
    def changes_are_those_of_the_turn(self) -> None:
        encode = self.store.layout.encode
        expected = {
            key: encode(self.turn[key]) if key in self.turn else None
            for key in self.touched
            if key in self.turn or key in self.committed
        }
        assert self.table.changes() == list(expected.items())

    @invariant()
    def the_position_is_that_of_the_committed_rows(self) -> None:
        if self.store.kind == "memory":
            assert self.table.position is None
        else:
            assert (self.table.position or 0) == len(self.changelog)

    @invariant()
    def the_oldest_is_known(self) -> None:
        times = self._times(self.committed).values()
        oldest = self.table.oldest()
        if not times or self.store.kind == "rocksdb":
            assert oldest == min(times, default=None)
        else:
            assert oldest is not None
            assert oldest in times
            assert oldest // MINUTE == min(times) // MINUTE

    def _times(self, rows: dict[bytes, Note]) -> dict[bytes, int]:
        """The times of the rows that expire."""
        time_of = self.store.layout.time_of
        return {} if time_of is None else {key: at for key, row in rows.items() if (at := time_of(row)) is not None}

    @staticmethod
    def _at(row: Note | None, until: int) -> bool:
        return row is not None and row.at is not None and row.at <= until
