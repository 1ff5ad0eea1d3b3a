"""Points of a turn at which a worker of a test ends itself, as if the machine had lost power there.

Armed in the worker's own process by wrapping the engine from outside: the product has no switch for it.
"""

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.engine.transactions import Transactions
from tables.partition import TablePartition

EXIT_CODE = 86  # of a worker that ended where it was told to
IN_RESTORE_ROWS = 100


def _end() -> None:
    os._exit(EXIT_CODE)


def _before_commit() -> None:
    """Everything of the turn is at the broker, the commit is not."""

    def commit(self: Transactions, offsets: Mapping[tuple[str, int], int]) -> None:  # noqa: ARG001  # never used
        self._producer.flush(10)
        _end()

    _replace(Transactions, "commit", commit)


def _after_commit() -> None:
    """The turn is committed, and nobody here has heard of it."""
    whole = Transactions.commit

    def commit(self: Transactions, offsets: Mapping[tuple[str, int], int]) -> None:
        whole(self, offsets)
        _end()

    _replace(Transactions, "commit", commit)


def _in_restore() -> None:
    whole = TablePartition.load
    rows = 0

    def load(self: TablePartition[Any], key: bytes, value: bytes | None) -> None:
        nonlocal rows
        rows += 1
        if rows > IN_RESTORE_ROWS:
            _end()
        whole(self, key, value)

    _replace(TablePartition, "load", load)


def _in_init_transactions() -> None:
    """The fence has been asked for, and its answer is under way."""
    whole = Transactions.fence

    def fence(self: Transactions) -> None:
        threading.Timer(0.002, _end).start()
        whole(self)

    _replace(Transactions, "fence", fence)


def _replace(owner: type, name: str, function: Callable[..., Any]) -> None:
    setattr(owner, name, function)


POINTS: Mapping[str, Callable[[], None]] = {
    "before-commit": _before_commit,
    "after-commit": _after_commit,
    "in-restore": _in_restore,
    "in-init-transactions": _in_init_transactions,
}


def arm(point: str) -> None:
    """From now on this process ends itself when it gets there."""
    POINTS[point]()
