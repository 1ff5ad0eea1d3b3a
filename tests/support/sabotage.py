"""Faults inside a worker: it ends itself at one point of a turn, as if the machine had lost power there, or something that is usually quick
takes long.

They wrap the engine in the worker's own process: the product has no switch for them.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.engine import transactional_producer, transactions
from pipelines.engine.transactional_producer import TransactionalProducer
from pipelines.engine.transactions import Ends, HeldOffset, Sent, Transactions
from tables.stores.memory import MemoryTable

EXIT_CODE = 86  # of a worker that ended at the chosen point
IN_RESTORE_ROWS = 100
SLOW_COMMIT_SECONDS = 0.05
SLOW_FENCE_SECONDS = 6.0  # longer than another worker needs to start and to join the group
HASTE_SECONDS = 5.0  # the time-out of a commit
OPENING = "opening"  # what a worker prints before it opens a producer


def _end() -> None:
    os._exit(EXIT_CODE)


def _before_commit() -> None:
    """Ends when the broker has everything of the turn but the commit."""
    whole = Transactions.commit

    def commit(self: Transactions, sent: Sent) -> list[Ends]:
        if _is_of_a_start(sent):
            return whole(self, sent)
        self._open_producer.flush(10)
        _end()
        return []

    _replace(Transactions, "commit", commit)


def _after_commit() -> None:
    """Ends when the turn is committed, before the worker uses the answer."""
    whole = Transactions.commit

    def commit(self: Transactions, sent: Sent) -> list[Ends]:
        ends = whole(self, sent)
        if not _is_of_a_start(sent):
            _end()
        return ends

    _replace(Transactions, "commit", commit)


def _after_offsets() -> None:
    """Ends when the group has the offsets, in a transaction that stays open."""
    whole, retrying = Transactions.commit, transactional_producer._retrying
    turns: list[bool] = []

    def commit(self: Transactions, sent: Sent) -> list[Ends]:
        turns.append(not _is_of_a_start(sent))
        return whole(self, sent)

    def until_the_commit(step: Callable[[float], Any], end: float) -> Any:
        if turns and turns[-1] and getattr(step, "__name__", "") == "commit_transaction":
            _end()
        return retrying(step, end)

    _replace(Transactions, "commit", commit)
    setattr(transactional_producer, "_retrying", until_the_commit)  # noqa: B010  # mypy takes a module's function for no value


def _in_restore() -> None:
    whole = MemoryTable.load
    rows = 0

    def load(self: MemoryTable[Any], key: bytes, value: bytes | None) -> None:
        nonlocal rows
        rows += 1
        if rows > IN_RESTORE_ROWS:
            _end()
        whole(self, key, value)

    _replace(MemoryTable, "load", load)


def _in_init_transactions() -> None:
    """Ends while the answer to the fence is under way."""
    whole = TransactionalProducer.fence

    def fence(self: TransactionalProducer, end: float) -> None:
        threading.Timer(0.002, _end).start()
        whole(self, end)

    _replace(TransactionalProducer, "fence", fence)


def _slow_fence() -> None:
    """Makes each opening of a producer slow; the worker prints a line before it."""
    whole = TransactionalProducer.fence

    def fence(self: TransactionalProducer, end: float) -> None:
        print(OPENING, flush=True)
        time.sleep(SLOW_FENCE_SECONDS)
        whole(self, end + SLOW_FENCE_SECONDS)

    _replace(TransactionalProducer, "fence", fence)


def _slow_commit() -> None:
    """Makes every commit slow, while the event loop is free."""
    whole = Transactions.commit

    def commit(self: Transactions, sent: Sent) -> list[Ends]:
        time.sleep(SLOW_COMMIT_SECONDS)
        return whole(self, sent)

    _replace(Transactions, "commit", commit)


def _hasty_commit() -> None:
    """Makes the time-out of a commit short."""
    transactions.COMMIT_SECONDS = HASTE_SECONDS


def _foreign_offsets() -> None:
    """Adds an offset that Kafka refuses to every commit."""
    _hasty_commit()
    whole = Transactions.commit

    def commit(self: Transactions, sent: Sent) -> list[Ends]:
        return whole(self, sent._replace(held={**sent.held, ("no-such-topic", 0): HeldOffset(1, "")}))

    _replace(Transactions, "commit", commit)


def _is_of_a_start(sent: Sent) -> bool:
    return not any(turn.outputs or turn.rows for turn in sent.turns)


def _replace(owner: type, name: str, function: Callable[..., Any]) -> None:
    setattr(owner, name, function)


CRASHES: Mapping[str, Callable[[], None]] = {
    "in-init-transactions": _in_init_transactions,
    "in-restore": _in_restore,
    "before-commit": _before_commit,
    "after-offsets": _after_offsets,
    "after-commit": _after_commit,
}
KINDS: Mapping[str, Callable[[], None]] = {
    **CRASHES,
    "slow-commit": _slow_commit,
    "slow-fence": _slow_fence,
    "hasty-commit": _hasty_commit,
    "foreign-offsets": _foreign_offsets,
}
