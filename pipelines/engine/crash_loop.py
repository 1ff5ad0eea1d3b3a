"""The crash-loop guard: finds the record on which a worker crashes again and again, and sets it aside.

Enters: the metadata of a partition's committed offsets, when the partition is taken over. Leaves: which record to refuse. A partition whose
last two starts completed no turn takes its records one by one. Before each, the record's position is committed, so that the next start
knows on which record the worker ended. That record goes to dead-letters as `crashed_stage`, undecided. Meanwhile the turns of all
partitions of the worker run one at a time, so that a crash belongs to the open turn. A clean stop and every completed turn reset the count.
"""

import asyncio
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any

import structlog

from pipelines.engine.offset_metadata import OffsetMetadata
from pipelines.engine.stage import Record, Refusal
from pipelines.engine.transactions import TurnContents
from schemas import private_files
from schemas.tracebacks import unquoted

CRASH_LOOP_STARTS = 3  # from this start on, counted since the last completed turn, records are taken one by one
CAUSE = "crashed_stage"
_REASON_CHARACTERS = 600  # of a worker's end reason in a dead letter
Place = tuple[str, int, int]  # topic, partition, offset
log = structlog.get_logger(__name__)


class OneAtATime:
    """Of one worker: while one of its partitions is in a crash loop, the turns of all of them run one at a time."""

    def __init__(self) -> None:
        self.in_crash_loop: set[int] = set()
        self._lock = asyncio.Lock()

    def turn(self) -> AbstractAsyncContextManager[Any]:
        """What a turn runs in."""
        return self._lock if self.in_crash_loop else nullcontext()


class CrashLoopGuard:
    """The guard of one partition; no I/O. `starts` is the number of this start since the last completed turn. `trying` is the record
    (topic, offset) that is decided on alone now, `blamed` the one that must not be decided on. `is_recorded` says that the group's offsets
    hold any of it."""

    def __init__(self, number: int, one_at_a_time: OneAtATime) -> None:
        self.starts = 0
        self.trying: tuple[str, int] | None = None
        self.blamed: Place | None = None
        self.is_recorded = False
        self._number = number
        self._one_at_a_time = one_at_a_time
        self._left = 0

    def take_over(self, metadata: Collection[OffsetMetadata], records: int, stage: str = "") -> None:
        """Counts this start. `metadata` is the metadata of every source; when it differs, a turn was completed since. `records` is how many
        records to take one by one in a crash loop."""
        first = next(iter(metadata), OffsetMetadata())
        same = first if all(each.turn == first.turn for each in metadata) else OffsetMetadata()
        self.starts = same.starts + 1
        self.trying = same.trying
        self.blamed = None if same.trying is None else (same.trying[0], self._number, same.trying[1])
        if self.starts >= CRASH_LOOP_STARTS or self.blamed is not None:
            self._left = records
            self._one_at_a_time.in_crash_loop.add(self._number)
            log.error(
                "taking records one by one",
                stage=stage,
                partition=self._number,
                start=self.starts,
                blamed=self.blamed,
                reason="the worker ended repeatedly at this position",
            )

    @property
    def on(self) -> bool:
        """Whether records are taken one by one."""
        return self._left > 0

    @property
    def counts(self) -> bool:
        """Whether there is something that the next start must know if the worker ends now."""
        return self.starts > 0 or self.trying is not None

    def recorded(self, turn: TurnContents) -> TurnContents:
        """The turn, with what the next start must know in the metadata of its offsets."""
        self.is_recorded = self.counts
        return turn._replace(starts=self.starts, trying=self.trying) if self.counts else turn

    def done(self, records: int) -> None:
        """Notes that a turn with so many records is complete, or will be when it has committed."""
        self.starts, self.trying = 0, None
        if self._left:
            self._left -= records
            if self._left <= 0:
                self.release()

    def release(self) -> None:
        """Resets the guard: this start will not end in a crash because of a record."""
        self.starts, self.trying, self._left = 0, None, 0
        self._one_at_a_time.in_crash_loop.discard(self._number)

    def is_blamed(self, record: Record) -> bool:
        return self.blamed == (record.topic, record.partition, record.offset)

    def refusal(self, record: Record, stage: str, end_reason: str) -> Refusal:
        """The refusal of the blamed record, which is blamed no longer. `end_reason` is empty when the worker left none."""
        self.blamed = None
        reason = (
            f"end reason: {end_reason[:_REASON_CHARACTERS]}"
            if end_reason
            else "no end reason: the worker was killed, or crashed below Python"
        )
        detail = (
            f"the worker of stage {stage} ended while it processed this record alone, after repeated starts at this position without "
            f"progress; {reason}; the record is not tried again: report it with the worker's log"
        )
        log.error("record refused after repeated crashes", stage=stage, place=record[:3], detail=unquoted(detail))
        return Refusal(record, CAUSE, detail)


def blank(record: Record) -> Record:
    """The record without its content: every stage refuses it and continues after it."""
    return record._replace(key=None, value=None, headers=())


class EndReason:
    """Why a worker ended, kept in its folder for the next start. Blocks for a small file; never raises."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".end-reason"
        self.found = ""

    def write(self, reason: str) -> None:
        """Keeps the reason, in place of a former one."""
        try:
            private_files.make_folder(self._path.parent)
            private_files.write(self._path, reason[:_REASON_CHARACTERS])
        except OSError:
            return  # the reason is in the log as well

    def take(self) -> None:
        """Reads and removes the reason of the former worker; `found` is empty when there is none."""
        try:
            self.found = self._path.read_text(encoding="utf-8")
            self._path.unlink()
        except (OSError, ValueError):
            self.found = ""
