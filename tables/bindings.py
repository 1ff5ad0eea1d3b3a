"""The tables of stage match. Key of both: "channel:account:provider message id" (schemas/keys.py).

`bindings` holds the delivery that a provider message id belongs to. `waiting` holds receipts whose binding has not come yet, with their
original bytes: a receipt that never matches becomes a dead letter, so nothing is lost.
"""

from dataclasses import dataclass

from tables.framed_layout import FramedLayout
from tables.layout import JsonLayout

MOST_WAITING = 64  # receipts that may wait for one provider message; providers report far fewer


@dataclass(frozen=True, slots=True)
class BoundDelivery:
    """The delivery that a provider's message belongs to."""

    tenant_id: str
    delivery_id: str
    conversation_id: str
    home_partition: int  # the partition of the conversation
    bound_at: int  # when the provider answered, Unix milliseconds; the row expires CHAT4ALL_BINDING_DAYS later
    partial: bool = False  # not the delivery's last part: of its receipts only a failure changes the delivery's status


@dataclass(frozen=True, slots=True)
class WaitingReceipt:
    """Receipts of one provider message that wait for its binding, at most MOST_WAITING."""

    since: int  # when the first of them came, Unix milliseconds; they wait CHAT4ALL_ORPHAN_SECONDS from here
    # of each receipt: offset, timestamp in Unix milliseconds, event id; in the order in which they came, each event once
    places: tuple[tuple[int, int, str], ...] = ()
    receipts: tuple[bytes, ...] = ()  # the values of their records, unchanged


BINDINGS = JsonLayout("bindings", BoundDelivery, time="bound_at", keyed_by_record=True)
WAITING = FramedLayout("waiting", WaitingReceipt, framed="receipts", time="since", version=2, keyed_by_record=True)
