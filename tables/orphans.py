"""Table `orphans` of stage match: receipts that found no delivery. Key: "channel:account:provider message id" (schemas/keys.py).

Each of them is a dead letter as well. A binding that comes after all takes its receipts out of the table.
"""

from dataclasses import dataclass

from tables.framed_layout import FramedLayout

MOST_ORPHANS = 10_000  # rows of a partition; beyond it the oldest are deleted
MOST_ORPHANED = 64  # receipts of a row; further ones are only dead letters
# The reasons with which a receipt may still find its delivery; with any other, a binding would not help.
MATCHABLE = ("no_binding", "too_many_waiting")


@dataclass(frozen=True, slots=True)
class OrphanedReceipts:
    """The receipts of one provider message that found no delivery, at most MOST_ORPHANED."""

    since: int  # when the first of them was given up, Unix milliseconds; the row is kept CHAT4ALL_ORPHAN_DAYS from here
    reasons: tuple[str, ...] = ()  # of each receipt: no_binding, or the cause of its refusal (schemas/causes.py)
    # of each receipt: offset, timestamp in Unix milliseconds, event id
    places: tuple[tuple[int, int, str], ...] = ()
    receipts: tuple[bytes, ...] = ()  # the values of their records, unchanged


ORPHANS = FramedLayout("orphans", OrphanedReceipts, framed="receipts", time="since", keyed_by_record=True)
