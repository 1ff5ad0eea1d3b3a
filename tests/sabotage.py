"""What a test does to a worker from inside: the worker ends itself at one point of a turn, as if the machine had lost power there, or
takes long over something that is quick.

Done in the worker's own process by wrapping the engine from outside: the product has no switch for it.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.engine import transactions
from pipelines.engine.transactions import Transactions, Turn
from tables.partition import TablePartition

EXIT_CODE = 86  # of a worker that ended where it was told to
IN_RESTORE_ROWS = 100
SLOW_COMMIT_SECONDS = 0.05
SLOW_FENCE_SECONDS = 6.0  # longer than another worker needs to start and to ask for its share
HASTE_SECONDS = 5.0
OPENING = "opening"  # what a worker prints before it opens a producer, with its id


def _end() -> None:
    os._exit(EXIT_CODE)


def _before_commit() -> None:
    """Everything of the turn is at the broker, the commit is not."""
    whole = Transactions.commit

    def commit(self: Transactions, turn: Turn) -> Mapping[str, int]:
        if not (turn.outputs or turn.rows):
            return whole(self, turn)  # of a start
        self._producer.flush(10)
        _end()
        return {}

    _replace(Transactions, "commit", commit)


def _after_commit() -> None:
    """The turn is committed, and nobody here has heard of it."""
    whole = Transactions.commit

    def commit(self: Transactions, turn: Turn) -> Mapping[str, int]:
        ends = whole(self, turn)
        if turn.outputs or turn.rows:  # else of a start
            _end()
        return ends

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


def _slow_fence() -> None:
    """Every producer takes long to open; each opening is told beforehand."""
    whole = Transactions.fence

    def fence(self: Transactions) -> None:
        print(f"{OPENING} {self.id}\n", end="", flush=True)  # in one write: they are opened side by side
        time.sleep(SLOW_FENCE_SECONDS)
        whole(self)

    _replace(Transactions, "fence", fence)


def _slow_commit() -> None:
    """Every commit takes long, and the event loop is free meanwhile."""
    whole = Transactions.commit

    def commit(self: Transactions, turn: Turn) -> Mapping[str, int]:
        time.sleep(SLOW_COMMIT_SECONDS)
        return whole(self, turn)

    _replace(Transactions, "commit", commit)


def _hasty_commit() -> None:
    """Patience with a commit that does not end is short."""
    transactions.COMMIT_SECONDS = HASTE_SECONDS


def _foreign_offsets() -> None:
    """Every commit names an offset that Kafka refuses."""
    _hasty_commit()
    whole = Transactions.commit

    def commit(self: Transactions, turn: Turn) -> Mapping[str, int]:
        return whole(self, turn._replace(offsets={**turn.offsets, ("no-such-topic", 0): 1}))

    _replace(Transactions, "commit", commit)


def _replace(owner: type, name: str, function: Callable[..., Any]) -> None:
    setattr(owner, name, function)


CRASHES: Mapping[str, Callable[[], None]] = {
    "in-init-transactions": _in_init_transactions,
    "in-restore": _in_restore,
    "before-commit": _before_commit,
    "after-commit": _after_commit,
}
KINDS: Mapping[str, Callable[[], None]] = {
    **CRASHES,
    "slow-commit": _slow_commit,
    "slow-fence": _slow_fence,
    "hasty-commit": _hasty_commit,
    "foreign-offsets": _foreign_offsets,
}
