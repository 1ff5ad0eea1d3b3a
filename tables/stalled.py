"""The tables of stage track for deliveries that are SENT and should have arrived. Key of both: delivery id.

`awaiting` has the deliveries for which more should come, until their channel's time is over (CHAT4ALL_STALLED_SECONDS). `stalled` has those
for which nothing came in that time. A later receipt removes the row.
"""

from dataclasses import dataclass

from tables.layout import JsonLayout


@dataclass(frozen=True, slots=True)
class Awaited:
    """A delivery that is SENT."""

    due_at: int  # from then on it counts as stalled; Unix milliseconds


@dataclass(frozen=True, slots=True)
class StalledDelivery:
    """A delivery that is SENT for longer than its channel's time. Times are Unix milliseconds."""

    tenant_id: str
    conversation_id: str
    message_id: str
    seq: int
    channel: str
    account: str
    sent_at: int | None
    stalled_at: int


AWAITING = JsonLayout("awaiting", Awaited, time="due_at", bucketed=True)
STALLED = JsonLayout("stalled", StalledDelivery)
