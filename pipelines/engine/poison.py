"""Poison: a record on which a stage's decision raises. Finds that record, and recognizes when the reason is the code and not a record.

Enters: the records of a decision and whether it raised. Leaves: how many records the next turn may take, which records to refuse, or
NotData, one line that ends the worker. Decides and commits nothing; no clock, no I/O.
"""

import traceback
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from pipelines.engine.stage import Record, Refusal
from schemas.tracebacks import described_error

LIMIT = 20  # in a row: enough for one producer's bad batch, too few for a broken stage to refuse a whole topic
SHARE = 0.2  # of the last WINDOW records, once ENOUGH were seen: below it the stage continues for the good records
WINDOW = 200
ENOUGH = 50


class NotData(Exception):
    """A decision raises, and no record is the reason: a bug in the stage's code. The line says what raised, where, and what to do."""


class TooLarge(Exception):
    """A decision made more than Kafka takes. `together` says that no single output or row is too large, only their sum."""

    def __init__(self, sentence: str, *, together: bool = False) -> None:
        super().__init__(sentence)
        self.together = together


class Isolation:
    """Finds poison of one partition by halving, in turns that commit: 11 decisions for one record among 1,000.

    The records of a decision that raised come again in halves. A half that does not raise is committed like any turn, so that in the end
    one record is alone on the state that all records before it left: that record is poison. Its refusal is kept back until the next record
    was decided on: when poison does not end, the worker ends with none of it committed or in dead-letters. With a `limit` of 0 the worker
    never ends for it.
    """

    def __init__(self, stage: str, limit: int) -> None:
        self._stage = stage
        self._limit = limit
        self._among = 0  # one of the next so many records raises; 0 when none is known to
        self._found: list[Refusal] = []
        self._sizes = 0  # how many of those found are too large
        self._row = 0
        self._seen = 0
        self._places: deque[int] = deque()  # of poison within WINDOW, counted in records

    @property
    def at_most(self) -> int | None:
        """How many records the next turn may take; None when nothing is being searched."""
        if self._found:
            return 1
        return max(1, self._among // 2) if self._among else None

    def raised(self, records: Sequence[Record], error: Exception) -> bool:
        """Notes a decision on these records that raised. Returns True when it was poison: the record must not come again. Raises NotData
        when no record is the reason, or too many are."""
        if not records:
            raise NotData(
                self._bug(
                    f"it raises without any record, on its state, a timer or a call's result: {raised_where(error)}"
                )
            )
        self._among = len(records) if len(records) > 1 else 0
        if self._among:
            return False
        if isinstance(error, TooLarge):  # always data, never a bug
            self._sizes += 1
            self._found.append(Refusal(records[0], "too_large_for_kafka", str(error)))
            return True
        self._count()
        self._found.append(Refusal(records[0], "decision_failed", raised_where(error)))
        if self._too_many():
            place = f"{records[0].topic} {records[0].partition} at offset {records[0].offset}"
            raise NotData(
                self._bug(
                    f"{self._row} records in a row, {len(self._places)} of the last {min(self._seen, WINDOW)}, made it raise; "
                    f"the last, {place}: {raised_where(error)}",
                    ", or set CHAT4ALL_POISON_LIMIT=0 and send all such records to dead-letters",
                )
            )
        return True

    def decided(self, records: int) -> list[Refusal]:
        """Notes a decision on so many records that did not raise; returns the refusals to commit together with it."""
        self._among = max(0, self._among - records)
        self._seen += records
        if records:
            self._row = 0
        found, self._found = self._found, []
        self._sizes = 0
        return found

    def forget(self) -> None:
        """Forgets poison that was not committed: its records come again."""
        self._among = 0
        for _ in range(len(self._found) - self._sizes):
            self._row -= 1
            self._seen -= 1
            self._places.pop()
        self._found.clear()
        self._sizes = 0

    def _count(self) -> None:
        self._seen += 1
        self._row += 1
        self._places.append(self._seen)
        while self._places[0] <= self._seen - WINDOW:
            self._places.popleft()

    def _too_many(self) -> bool:
        share = len(self._places) / min(self._seen, WINDOW)
        return self._limit > 0 and (self._row > self._limit or (self._seen >= ENOUGH and share > SHARE))

    def _bug(self, what: str, otherwise: str = "") -> str:
        return (
            f"a bug in the code of stage {self._stage}, not data: {what}; nothing of it was committed, no record is lost: "
            f"start a version that can decide on it (the previous one?){otherwise}"
        )


def raised_where(error: Exception) -> str:
    """The error and where it was raised, as `ValueError (pipelines/route.py:12, in decide)`. The error's own sentence is in it only where
    it cannot quote the record (described_error)."""
    line = described_error(error)
    # without the lines of the source, which would be read from files
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return line
    code, number = frames[-1][0].f_code, frames[-1][1]
    path = Path(code.co_filename)
    return f"{line} ({path.parent.name}/{path.name}:{number}, in {code.co_name})"
