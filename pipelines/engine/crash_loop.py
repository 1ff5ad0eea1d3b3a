"""The brake: a worker that ends again and again at the same place does not go round for ever.

In: the marks of a partition's committed offsets, when it is taken over. A partition whose last two starts came to nothing takes its
records one by one; before each, the record's place is committed, so that whoever starts next knows which one the worker ended on. That
one goes to dead-letters as `crashed_stage`, unread. Meanwhile the turns of all partitions of the worker come one after the other: an end
in a turn is due to that turn. A clean stop and every turn that is done with make the count begin anew.
"""

import asyncio
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any

from pipelines.engine.offset_metadata import OffsetMetadata
from pipelines.engine.stage import Record, Refusal
from pipelines.engine.transactions import TurnContents
from schemas import private_files

CRASH_LOOP_STARTS = 3
CAUSE = "crashed_stage"
_WORDS = 600  # characters of a worker's last words in a dead letter
Place = tuple[str, int, int]  # topic, partition, offset


class OneAtATime:
    """One worker's: while a partition is braked, turns are taken one at a time."""

    def __init__(self) -> None:
        self.in_crash_loop: set[int] = set()
        self._lock = asyncio.Lock()

    def turn(self) -> AbstractAsyncContextManager[Any]:
        return self._lock if self.in_crash_loop else nullcontext()


class CrashLoopGuard:
    """Of one partition. `starts` is this start's number since the last turn that was done with, `trying` the record (topic, offset) that
    is being decided on alone, `blamed` the one that is not to be read. `is_marked` says that Kafka holds any of it."""

    def __init__(self, number: int, one_at_a_time: OneAtATime) -> None:
        self.starts = 0
        self.trying: tuple[str, int] | None = None
        self.blamed: Place | None = None
        self.is_marked = False
        self._number = number
        self._one_at_a_time = one_at_a_time
        self._left = 0

    def take_over(self, marks: Collection[OffsetMetadata], records: int) -> None:
        """`marks` are those of every source; when they differ, some turn was done with since. `records` is how many to take one by one."""
        first = next(iter(marks), OffsetMetadata())
        same = first if all(mark.turn == first.turn for mark in marks) else OffsetMetadata()
        self.starts = same.starts + 1
        self.trying = same.trying
        self.blamed = None if same.trying is None else (same.trying[0], self._number, same.trying[1])
        if self.starts >= CRASH_LOOP_STARTS or self.blamed is not None:
            self._left = records
            self._one_at_a_time.in_crash_loop.add(self._number)

    @property
    def on(self) -> bool:
        return self._left > 0

    @property
    def counts(self) -> bool:
        """Whether there is something to remember should the worker end now."""
        return self.starts > 0 or self.trying is not None

    def marked(self, turn: TurnContents) -> TurnContents:
        """The turn with what the next owner must know."""
        self.is_marked = self.counts
        return turn._replace(starts=self.starts, trying=self.trying) if self.counts else turn

    def done(self, records: int) -> None:
        """A turn that took so many records is done with, or is once it has committed."""
        self.starts, self.trying = 0, None
        if self._left:
            self._left -= records
            if self._left <= 0:
                self.release()

    def release(self) -> None:
        """There is nothing to be careful about any more."""
        self.starts, self.trying, self._left = 0, None, 0
        self._one_at_a_time.in_crash_loop.discard(self._number)

    def is_blamed(self, record: Record) -> bool:
        return self.blamed == (record.topic, record.partition, record.offset)

    def refusal(self, record: Record, stage: str, end_reason: str) -> Refusal:
        """What becomes of the record the worker ended on."""
        self.blamed = None
        said = (
            f"its last words: {end_reason[:_WORDS]}"
            if end_reason
            else "it left no word: killed, or a crash below Python"
        )
        detail = (
            f"the worker of stage {stage} ended while it had this record alone, after its starts at this place had come to nothing; "
            f"{said}; the record is not tried again: report it with the worker's log"
        )
        return Refusal(record, CAUSE, detail)


def blank(record: Record) -> Record:
    """The record without anything that could hurt: every stage refuses it, and goes on after it."""
    return record._replace(key=None, value=None, headers=())


class EndReason:
    """Why a worker ended, kept in its folder for the next one."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".end-reason"
        self.found = ""

    def write(self, words: str) -> None:
        try:
            private_files.make_folder(self._path.parent)
            private_files.write(self._path, words[:_WORDS])
        except OSError:
            return  # they are in the log as well

    def take(self) -> None:
        """Reads those of the former worker, once."""
        try:
            self.found = self._path.read_text(encoding="utf-8")
            self._path.unlink()
        except (OSError, ValueError):
            self.found = ""
