"""Table `cursors` of stage track: how far one member of a conversation has been delivered, and has read. Key: `cursor_key`.

The deliveries to a member are numbered 1, 2, 3 and so on, in the order of their sequence. The row remembers which numbers have ended. The
delivered cursor is before the first number that has not. Numbers that have ended behind it are kept in runs, at most MOST_RUNS. An end that
would make one run more is forgotten; it counts again when the delivery's own row expires. So a cursor may be late, but is never ahead.

Guaranteed, whatever receipts come, in any order and number: 0 <= last_read_seq <= last_delivered_seq <= the newest sequence to the member,
and no cursor ever goes back. All functions are pure.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from schemas.keys import conversation_key, quoted
from schemas.records import Cursor
from tables.layout import frozen

MOST_RUNS = 64  # runs of ended deliveries behind one that has not ended
MOST_FAILED = 64  # failed deliveries that are known not to be unread
# first and last number, sequence of the last, sequence of the newest observed one (0: none)
Run = tuple[int, int, int, int]


class MemberCursor(NamedTuple):
    """One member of one conversation. Numbers count the member's deliveries from 1; number and sequence 0 mean none."""

    tenant_id: str
    conversation_id: str
    member: str  # the recipient of the deliveries
    made: int = 0  # number of the newest delivery
    made_seq: int = 0  # its sequence
    ended: int = 0  # every delivery up to this number has ended
    ended_seq: int = 0  # the sequence of that number
    observed_seq: int = 0  # sequence of the newest delivery among those whose arrival, or failure, is known
    read: int = 0  # number of the newest delivery that was read
    read_seq: int = 0  # its sequence
    sees_delivered: bool = False  # some delivery was made on a channel that reports arrivals
    sees_read: bool = False  # ... that reports reads
    runs: tuple[Run, ...] = ()  # ended deliveries behind the first that has not ended; in order, never adjacent
    failed: tuple[int, ...] = ()  # numbers above `read` that ended without arriving, in order
    version: int = 0  # how often the published cursor has changed
    updated_at: int = 0  # by our clock, Unix milliseconds

    @property
    def last_delivered_seq(self) -> int | None:
        """None where no channel of the member reports arrivals: nobody knows. What was read has arrived."""
        return max(self.observed_seq, self._read_before_open) if self.sees_delivered else None

    @property
    def last_read_seq(self) -> int | None:
        """None where no channel of the member reports reads. A read behind an open delivery counts in full once that has ended."""
        return self._read_before_open if self.sees_read else None

    @property
    def _read_before_open(self) -> int:
        return min(self.read_seq, self.ended_seq)

    @property
    def unread(self) -> int | None:
        """Deliveries after the newest read one that have not failed, of which at most MOST_FAILED are known; None where reads are not
        reported."""
        return self.made - self.read - len(self.failed) if self.sees_read else None

    def published(self, partition: int) -> Cursor:
        """The row as a record of topic `cursors`; `partition` is the conversation's home partition."""
        return Cursor(
            tenant_id=self.tenant_id,
            conversation_id=self.conversation_id,
            home_partition=partition,
            member=self.member,
            version=self.version,
            last_delivered_seq=self.last_delivered_seq,
            last_read_seq=self.last_read_seq,
            newest_seq=self.made_seq,
            changed_at=self.updated_at,
        )


def cursor_key(tenant_id: str, conversation_id: str, member: str) -> str:
    """Key of the table and of the topic `cursors`: percent-quoted, so that no two members share one."""
    return f"{quoted(conversation_key(tenant_id, conversation_id))}/{quoted(member)}"


def is_in_order(cursor: Cursor) -> bool:
    """Whether a published cursor keeps 0 <= last_read_seq <= last_delivered_seq <= newest_seq; null is left out of it."""
    delivered = cursor.newest_seq if cursor.last_delivered_seq is None else cursor.last_delivered_seq
    return 0 <= (cursor.last_read_seq or 0) <= delivered <= cursor.newest_seq


def made(cursor: MemberCursor, seq: int, *, sees_delivered: bool, sees_read: bool) -> MemberCursor:
    """A further delivery to the member; its number is `made` of the result. Sequences come in rising order."""
    return cursor._replace(
        made=cursor.made + 1,
        made_seq=max(seq, cursor.made_seq),
        sees_delivered=cursor.sees_delivered or sees_delivered,
        sees_read=cursor.sees_read or sees_read,
    )


def ended(cursor: MemberCursor, number: int, seq: int, *, observed: bool, failed: bool = False) -> MemberCursor:
    """Nothing more is awaited for a delivery. `observed`: its arrival or its failure is known, not only that the provider took it."""
    if failed and number > cursor.read and number not in cursor.failed and len(cursor.failed) < MOST_FAILED:
        cursor = cursor._replace(failed=tuple(sorted((*cursor.failed, number))))
    if not failed and number in cursor.failed:  # it arrived after all
        cursor = cursor._replace(failed=tuple(each for each in cursor.failed if each != number))
    seen = seq if observed else 0
    if number <= cursor.ended:  # it ended before, and more is known of it now
        return cursor._replace(observed_seq=max(cursor.observed_seq, seen))
    runs = _with(cursor.runs, (number, number, seq, seen))
    if runs and runs[0][0] == cursor.ended + 1:
        (_, last, last_seq, observed_seq), *rest = runs
        return cursor._replace(
            ended=last, ended_seq=last_seq, observed_seq=max(cursor.observed_seq, observed_seq), runs=tuple(rest)
        )
    return cursor if len(runs) > MOST_RUNS else cursor._replace(runs=runs)


def read(cursor: MemberCursor, number: int, seq: int) -> MemberCursor:
    """The member has read this delivery, and so everything before it."""
    if number <= cursor.read:
        return cursor
    return cursor._replace(read=number, read_seq=seq, failed=tuple(each for each in cursor.failed if each > number))


def _with(runs: tuple[Run, ...], new: Run) -> tuple[Run, ...]:
    """The runs with one number more, joined with its neighbours; in the same order."""
    before = [run for run in runs if run[1] < new[0] - 1]
    after = [run for run in runs if run[0] > new[1] + 1]
    joined = [run for run in runs if run[1] >= new[0] - 1 and run[0] <= new[1] + 1]
    first, last = min([new[0], *(r[0] for r in joined)]), max([new[1], *(r[1] for r in joined)])
    last_seq = max([new[2], *(r[2] for r in joined)])
    observed_seq = max([new[3], *(r[3] for r in joined)])
    return (*before, (first, last, last_seq, observed_seq), *after)


class CursorsLayout:
    """Rows as JSON lists of their fields, in their order; a field is only ever added at the end. Rows do not age, as sequences do not."""

    name = "cursors"
    version = 1
    packed = False
    bucketed = True
    keyed_by_record = False
    time_of: Callable[[MemberCursor], int | None] | None = None

    def encode(self, row: MemberCursor) -> bytes:
        return orjson.dumps(list(row))

    def decode(self, value: bytes) -> MemberCursor:
        return MemberCursor(*frozen(orjson.loads(value)))

    def as_json(self, row: MemberCursor) -> Any:
        shown = {"last_delivered_seq": row.last_delivered_seq, "last_read_seq": row.last_read_seq, "unread": row.unread}
        return row._asdict() | shown


CURSORS = CursorsLayout()
