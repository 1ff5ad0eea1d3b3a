"""Whether the cursors in PostgreSQL are what the deliveries there say.

Enters: the deliveries and the cursors of a run that is quiet, and what each channel reports. Leaves: a sentence for each cursor that is not
what a look at every delivery of its member gives. Pure.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from loadgen.evidence import Kept, KeptCursor

_FAILED = frozenset({"FAILED", "EXPIRED", "CANCELLED", "SUPPRESSED"})
_ARRIVED = frozenset({"DELIVERED", "READ"})
# channel -> whether it reports arrivals, reads, and reads that cover what came before
Reports = Mapping[str, tuple[bool, bool, bool]]


def violations(deliveries: Sequence[Kept], cursors: Sequence[KeptCursor], reports: Reports) -> Iterator[str]:
    """One sentence a member whose cursor is missing, out of order, or not what its deliveries say."""
    found = {(cursor.conversation_id, cursor.member): cursor for cursor in cursors}
    members: dict[tuple[str, str], list[Kept]] = defaultdict(list)
    for delivery in deliveries:
        members[delivery.conversation_id, delivery.recipient].append(delivery)
    for (conversation_id, member), made in sorted(members.items()):
        made.sort(key=lambda each: each.seq)
        wanted = expected(made, reports)
        cursor = found.pop((conversation_id, member), None)
        shown = (None, None) if cursor is None else (cursor.last_delivered_seq, cursor.last_read_seq)
        if (shown[0] or 0, shown[1] or 0) != (wanted[0] or 0, wanted[1] or 0):
            yield f"member {member} of conversation {conversation_id}: PostgreSQL has {_said(shown)}, the deliveries say {_said(wanted)}"
        elif cursor is not None and not _in_order(cursor):
            yield f"member {member} of conversation {conversation_id}: {_said(shown)} of {cursor.newest_seq} is out of order"
    for conversation_id, member in found:
        yield f"member {member} of conversation {conversation_id}: a cursor, and no delivery"


def expected(made: Sequence[Kept], reports: Reports) -> tuple[int | None, int | None]:
    """(last_delivered_seq, last_read_seq) of one member, from all its deliveries by sequence; None: not observable."""
    before_open: list[int] = []
    for n, delivery in enumerate(made):
        if not _has_ended(delivery, reports):
            break
        before_open.append(n)
    newest_read = max((n for n, each in enumerate(made) if each.status == "READ"), default=-1)
    read = max((made[n].seq for n in before_open if n <= newest_read), default=0)
    known = _FAILED | _ARRIVED
    delivered = max((made[n].seq for n in before_open if made[n].status in known), default=0)
    channels = {each.channel for each in made}
    sees_delivered, sees_read = (any(reports[channel][what] for channel in channels) for what in (0, 1))
    return max(delivered, read) if sees_delivered else None, read if sees_read else None


def _has_ended(delivery: Kept, reports: Reports) -> bool:
    sees_delivered, *_ = reports[delivery.channel]
    return delivery.status in _FAILED | _ARRIVED or (delivery.status == "SENT" and not sees_delivered)


def _in_order(cursor: KeptCursor) -> bool:
    delivered = cursor.newest_seq if cursor.last_delivered_seq is None else cursor.last_delivered_seq
    return 0 <= (cursor.last_read_seq or 0) <= delivered <= cursor.newest_seq


def _said(cursors: tuple[int | None, int | None]) -> str:
    return ", ".join(
        f"{name} {'not observable' if seq is None else seq}"
        for name, seq in zip(("delivered", "read"), cursors, strict=True)
    )
