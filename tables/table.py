"""What a stage and the engine may ask of one partition of one table, wherever its rows are kept; the contract of every store.

A turn writes with `put` and `delete` and reads its own writes. Its `changes` go on the changelog inside the turn's transaction;
then the turn ends with `commit`, after the commit and never before it, or with `rollback`. A store on disk therefore holds what its
changelog held up to `position`, no more and no less, whenever the process ends. Not safe for threads: one at a time.
"""

from collections.abc import Iterator
from typing import Protocol, TypeVar

from tables.layout import Layout

Row = TypeVar("Row")


class StoreFailed(Exception):
    """A store on disk cannot go on; its text says what to do. The worker ends: its memory is ahead of the store."""


class StoreInUse(StoreFailed):
    """Another process, or a partition not yet closed, has the store open."""


class Table(Protocol[Row]):
    """Keys are bytes as on the changelog; rows are immutable values of the layout's class. No method but `__init__` blocks for long."""

    @property
    def layout(self) -> Layout[Row]: ...

    @property
    def position(self) -> int | None:
        """The changelog offset where a restore has to start; None: at the beginning. Always None in memory."""
        ...

    # --- rows -------------------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> Row | None: ...

    def __contains__(self, key: bytes) -> bool: ...

    def __len__(self) -> int:
        """How many rows, the open turn's included; exact, and known without counting."""
        ...

    def items(self) -> Iterator[tuple[bytes, Row]]:
        """Every row, the open turn's included, in no order. Not to be written to meanwhile."""
        ...

    def put(self, key: bytes, row: Row) -> None: ...

    def delete(self, key: bytes) -> None: ...

    # --- the open turn ----------------------------------------------------------------------------------------------------

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """Changelog records of the open turn: each key once, in the order of first touch, with its new value, None for a deleted
        row. A row made and deleted within the turn never existed."""
        ...

    def rollback(self) -> None:
        """Forgets the open turn."""
        ...

    def commit(self, position: int | None = None) -> None:
        """The open turn's transaction has committed: its rows stay. `position` is the changelog offset after its last row, None
        when it had none."""
        ...

    # --- age, for layouts with `time_of` ----------------------------------------------------------------------------------

    def oldest(self) -> int | None:
        """The time of the oldest committed row; in memory it may be a later row of the same minute."""
        ...

    def expired(self, until: int, at_most: int) -> list[bytes]:
        """Keys of committed rows whose time is `until` or before, without those the open turn has deleted or made younger; never a
        row that is younger, the oldest first. In memory a row may be told up to a minute late, when younger rows of its minute
        were written before it. While `oldest() <= until` it is never empty for a turn that has written nothing."""
        ...

    # --- restore ----------------------------------------------------------------------------------------------------------

    def load(self, key: bytes, value: bytes | None) -> None:
        """Takes one changelog record, in the changelog's order; it can be read after the next `loaded`."""
        ...

    def loaded(self, position: int) -> None:
        """Everything before `position` was given to `load`. Call it every 20,000 rows or so: on disk they and the position become one
        write, and a restore that is cut off goes on from there."""
        ...

    def reset(self) -> None:
        """Forgets every row and the position: the changelog is another one than it was."""
        ...

    def close(self) -> None:
        """Lets go of the store; nothing is asked of it afterwards."""
        ...
