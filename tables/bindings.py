"""Tables of stage match. Key of both: "channel:account:provider message id".

`bindings` knows which delivery a provider id belongs to; `waiting` holds receipts whose binding has not come yet, with their
original bytes, so that one that never matches becomes a dead letter and nothing is lost.
"""

from dataclasses import dataclass

from tables.framed_layout import FramedLayout
from tables.layout import JsonLayout

MOST_WAITING = 64  # receipts of one provider message; far above what providers tell of one


@dataclass(frozen=True, slots=True)
class BoundDelivery:
    tenant_id: str
    delivery_id: str
    conversation_id: str
    home_partition: int
    bound_at: int  # Unix milliseconds; the row lives for the binding window from here
    partial: bool = False  # not the delivery's last part: its receipts explain, and only a failure moves the delivery


@dataclass(frozen=True, slots=True)
class WaitingReceipt:
    since: int  # Unix milliseconds, when the first of them came
    # (offset, timestamp, event id) of each receipt, in the order they came, each event once
    places: tuple[tuple[int, int, str], ...] = ()
    receipts: tuple[bytes, ...] = ()  # their values as they came


BINDINGS = JsonLayout("bindings", BoundDelivery, time="bound_at", keyed_by_record=True)
WAITING = FramedLayout("waiting", WaitingReceipt, framed="receipts", time="since", version=2, keyed_by_record=True)
