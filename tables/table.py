"""The contract of every table store: what a stage and the engine may ask of one partition of one table.

A turn writes with `put` and `delete` and reads its own writes. The engine puts `changes` on the changelog inside the turn's Kafka
transaction. It then ends the turn with `commit`, always after the transaction has committed, or with `rollback`. So a store on disk never
holds a row that its changelog does not hold.

Threads: a table has no lock. One thread at a time may use it. The engine opens and restores a table in a thread of its own; from then on it
calls the table on the event loop only.

Blocking: a store in memory never blocks. A store on disk may read its disk in every method that reads rows, and writes to it in `commit`,
`load`, `loaded` and `reset`. One call takes microseconds from the page cache and milliseconds from a slow disk; each method says what it
does.

Errors: every method of a store on disk may raise StoreFailed; after it the table must not be used, and the worker ends. Stores in memory
raise none of their own.

Rebalance: the engine opens and restores the tables of a partition after it was assigned, and before its first turn. A rebalance first lets
the running turn end. Then the table is closed, or kept if the worker keeps the partition and no other worker has had it meanwhile. A fenced
worker closes the table with its open turn.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, TypeVar

from tables.layout import Layout

Row = TypeVar("Row")
Place = int | bytes  # in a table, for `scan`; its meaning belongs to the store


class Scanned(NamedTuple):
    """A part of a table's keys: those found among the rows that were looked at, and where the next part begins; None at the end."""

    keys: list[bytes]
    looked: int
    following: Place | None


class StoreFailed(Exception):
    """A store on disk cannot continue. The text says what to do. The worker ends, because its memory may be ahead of the store."""


class StoreInUse(StoreFailed):
    """Another process has the store open, or an earlier owner in this process has not closed it yet. A later try may succeed."""


class Table(Protocol[Row]):
    """Keys are bytes, as on the changelog. Rows are immutable values of the layout's row class. Times are Unix milliseconds."""

    @property
    def layout(self) -> Layout[Row]:
        """How rows become changelog bytes. Does not block."""
        ...

    @property
    def position(self) -> int | None:
        """The changelog offset at which a restore has to start; None: at the beginning. Always None in memory. Does not block."""
        ...

    # --- rows -------------------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> Row | None:
        """The row as the open turn sees it; None if there is none. On disk this may read the disk. Raises StoreFailed."""
        ...

    def __contains__(self, key: bytes) -> bool:
        """Whether the open turn sees a row under the key. On disk this may read the disk. Raises StoreFailed."""
        ...

    def __len__(self) -> int:
        """The exact number of rows as the open turn sees them. The store keeps the number, so this does not block."""
        ...

    def items(self) -> Iterator[tuple[bytes, Row]]:
        """Every row as the open turn sees it, in no order. The table must not change while the iterator is in use. Reads the whole store,
        on disk in batches, so it may block for long. Raises StoreFailed."""
        ...

    def scan(self, start: Place | None, look: int, prefix: bytes = b"") -> Scanned:
        """Keys that begin with `prefix`, among the next `look` rows from `start`: None for the first part, then `following` of the part
        before. A store in buckets may look at some rows more. A store on disk has its keys in order, looks only at keys with the prefix,
        and reads the disk; raises StoreFailed.

        The table may change between two parts. A row that is written or deleted meanwhile, or by the open turn, may be missing or come
        twice; in memory a deletion may hide as many other rows. No row is decoded."""
        ...

    def put(self, key: bytes, row: Row) -> None:
        """Writes a row within the open turn, in memory only. On disk it may first read the row it replaces. Raises StoreFailed."""
        ...

    def delete(self, key: bytes) -> None:
        """Deletes a row within the open turn; does nothing if there is none. On disk it may first read the row. Raises StoreFailed."""
        ...

    # --- the open turn ----------------------------------------------------------------------------------------------------

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """Changelog records of the open turn: each key once, in the order of its first change, with its new value, or None for a deleted
        row. A row that was created and deleted within the turn is left out. Does not block; raises what `Layout.encode` raises."""
        ...

    def rollback(self) -> None:
        """Discards the open turn: rows are again as the last commit left them. Does not block."""
        ...

    def commit(self, position: int | None = None) -> None:
        """Keeps the rows of the open turn, after its Kafka transaction has committed. `position` is the changelog offset after the turn's
        last row; None if the turn changed no row.

        On disk this is one atomic write, which blocks but is not synced: after a crash of the machine the store may be behind its
        changelog. Raises ValueError if rows were changed and `position` is None or is before the store's, and StoreFailed."""
        ...

    # --- expiry, for layouts with `time_of` -------------------------------------------------------------------------------

    def oldest(self) -> int | None:
        """The time of the oldest committed row; None if no row has a time. In memory it may be a later row of the same minute. On disk this
        may read the disk. Raises StoreFailed."""
        ...

    def expired(self, until: int, at_most: int) -> list[bytes]:
        """At most `at_most` keys of committed rows whose time is `until` or earlier, the oldest first. Never a row that is younger, or that
        the open turn has deleted or made younger.

        In memory a row may be returned up to a minute late, if younger rows of its minute were written before it. While `oldest() <= until`
        holds, a turn that has written nothing gets at least one key. On disk this reads the disk. Raises StoreFailed."""
        ...

    # --- restore, between turns -------------------------------------------------------------------------------------------

    def load(self, key: bytes, value: bytes | None) -> None:
        """Takes one changelog record, in the changelog's order; `value` None deletes the row. The row can be read after the next `loaded`.
        On disk this writes to the disk once in many rows. Raises StoreFailed, and what `Layout.decode` raises."""
        ...

    def loaded(self, position: int) -> None:
        """Says that every record before the offset `position` was given to `load`. Must be called at the end of the changelog, and may be
        called before: on disk the rows and the position become one write, and a restore that was interrupted continues from there. Blocks
        on disk. Raises StoreFailed, and ValueError if `position` is before the store's."""
        ...

    def reset(self) -> None:
        """Deletes every row and the position, and discards the open turn: the changelog is not the one the store was made from. On disk it
        deletes and creates files, so it blocks. Raises StoreFailed."""
        ...

    def close(self) -> None:
        """Releases the store; the open turn is lost. No method may be called afterwards. On disk it closes files, so it blocks."""
        ...
