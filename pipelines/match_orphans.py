"""Receipts that found no delivery, kept for a while with the reason (table `orphans`), for stage match.

In: receipts that were given up, and bindings that come after all. Out: the receipts that a late binding is for. Guaranteed: at most
MOST_ORPHANS rows of MOST_ORPHANED receipts; what goes beyond that, the oldest first, is only a dead letter. No I/O.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from pipelines.engine.stage import Decision
from tables.orphans import MATCHABLE, MOST_ORPHANED, MOST_ORPHANS, OrphanedReceipts
from tables.table import Table

EXPIRED_PER_TURN = 2000


class Orphan(NamedTuple):
    """One receipt: why it found no delivery, the place of its record (offset, timestamp in Unix milliseconds, event id), and its bytes."""

    reason: str
    place: tuple[int, int, str]
    receipt: bytes


class Orphans:
    """The table of one partition; a row is kept for `kept_ms`. Methods run within `decide`."""

    def __init__(self, rows: Table[OrphanedReceipts], kept_ms: int) -> None:
        self._rows = rows
        self._kept_ms = kept_ms

    def next_due(self) -> int | None:
        oldest = self._rows.oldest()
        return None if oldest is None else oldest + self._kept_ms

    def holds(self, key: bytes, event_id: str) -> bool:
        """Whether a receipt of this event is kept, so that a repetition adds nothing."""
        row = self._rows.get(key)
        return row is not None and any(each[2] == event_id for each in row.places)

    def keep(self, key: bytes, orphans: list[Orphan], decision: Decision, now: int) -> None:
        """Adds receipts of one provider message, each event once."""
        row = self._rows.get(key) or OrphanedReceipts(now)
        known = {event_id for _, _, event_id in row.places}
        new = [each for each in orphans if each.place[2] not in known]
        kept = new[: MOST_ORPHANED - len(row.places)]
        if len(kept) < len(new):
            decision.count("orphan_not_kept", len(new) - len(kept))
        if not kept:
            return
        reasons, places, receipts = zip(*kept, strict=True)
        row = replace(
            row,
            reasons=(*row.reasons, *reasons),
            places=(*row.places, *places),
            receipts=(*row.receipts, *receipts),
        )
        self._rows.put(key, row)

    def claim(self, key: bytes) -> list[tuple[tuple[int, int, str], bytes]]:
        """Takes out the receipts for which a binding has come after all: place and bytes of each, in the order of their arrival."""
        row = self._rows.get(key)
        if row is None:
            return []
        kept = list(map(Orphan, row.reasons, row.places, row.receipts))
        left = [each for each in kept if each.reason not in MATCHABLE]
        if left:
            reasons, places, receipts = zip(*left, strict=True)
            self._rows.put(key, replace(row, reasons=reasons, places=places, receipts=receipts))
        else:
            self._rows.delete(key)
        return [(each.place, each.receipt) for each in kept if each.reason in MATCHABLE]

    def forget(self, key: bytes, is_of: Callable[[tuple[bytes, ...]], bool]) -> int:
        """Deletes the row if `is_of` says so of its receipts; returns how many were deleted."""
        row = self._rows.get(key)
        if row is None or not is_of(row.receipts):
            return 0
        self._rows.delete(key)
        return 1

    def expire(self, decision: Decision, now: int) -> None:
        """Deletes rows that were kept long enough, and the oldest ones beyond the bound."""
        for key in self._rows.expired(now - self._kept_ms, EXPIRED_PER_TURN):
            self._rows.delete(key)
        beyond = len(self._rows) - MOST_ORPHANS
        if beyond > 0:
            for key in self._rows.expired(now, min(beyond, EXPIRED_PER_TURN)):
                self._rows.delete(key)
                decision.count("orphan_evicted")
