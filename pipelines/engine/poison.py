"""Poison: a record on which a stage's decision raises. Which one it is, and when there is so much of it that the code is to blame.

Enters: the records of a decision and whether it raised. Leaves: how many records the next turn may take, what is to be refused, or
NotData, one line that stops the stage. Nothing is decided here and nothing is committed; no clock, no I/O.
"""

import traceback
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from pipelines.engine.stage import Record, Refusal
from schemas.tracebacks import described_error

LIMIT = 20  # in a row: one producer's bad batch passes, a stage that can do nothing any more does not empty its topic
SHARE = 0.2  # of the last WINDOW records, once ENOUGH were seen: below it the good records are worth going on for
WINDOW = 200
ENOUGH = 50


class NotData(Exception):
    """A decision raises, and no record is to blame: a bug in the stage's code. The line says what raised, where, and what to do."""


class TooLarge(Exception):
    """A decision made what Kafka would not take. `together` says that no part of it is too large, only all of it."""

    def __init__(self, sentence: str, *, together: bool = False) -> None:
        super().__init__(sentence)
        self.together = together


class Isolation:
    """Finds poison of one partition by halving, in turns that commit: 11 decisions for one record among 1,000.

    What raised comes again in halves. A half that does not raise is committed as any turn is, so a record is alone in the end on the state
    that everything before it left, and is to blame. It is not let go before the next record was decided on: poison without an
    end stops the stage with nothing of it committed, and none of it is in dead-letters. A `limit` of 0 never stops it.
    """

    def __init__(self, stage: str, limit: int) -> None:
        self._stage = stage
        self._limit = limit
        self._among = 0  # one of the next so many records raises; 0 when nothing is known
        self._found: list[Refusal] = []
        self._sizes = 0  # of those found, too large
        self._row = 0
        self._seen = 0
        self._places: deque[int] = deque()  # of poison, counted in records, within WINDOW

    @property
    def at_most(self) -> int | None:
        """How many records the next turn may take; None when nothing is being searched."""
        if self._found:
            return 1
        return max(1, self._among // 2) if self._among else None

    def raised(self, records: Sequence[Record], error: Exception) -> bool:
        """Notes a decision on these records that raised; true when it was poison, and the record is not to come again."""
        if not records:
            raise NotData(
                self._bug(
                    f"it raises without any record, on its state, a timer or a call's result: {raised_where(error)}"
                )
            )
        self._among = len(records) if len(records) > 1 else 0
        if self._among:
            return False
        if isinstance(error, TooLarge):  # data, however much of it there is
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
        """Notes a decision that did not raise; returns what is refused together with it."""
        self._among = max(0, self._among - records)
        self._seen += records
        if records:
            self._row = 0
        found, self._found = self._found, []
        self._sizes = 0
        return found

    def forget(self) -> None:
        """Whatever was not committed comes again."""
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
            f"start a version that can decide on it (the one before?){otherwise}"
        )


def raised_where(error: Exception) -> str:
    """What it is and where it was raised: `ValueError (pipelines/route.py:12, in decide)`. Its sentence may quote the record."""
    line = described_error(error)
    frames = list(
        traceback.walk_tb(error.__traceback__)
    )  # without the lines of the source, which would be read from files
    if not frames:
        return line
    code, number = frames[-1][0].f_code, frames[-1][1]
    path = Path(code.co_filename)
    return f"{line} ({path.parent.name}/{path.name}:{number}, in {code.co_name})"
