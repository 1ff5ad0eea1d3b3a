"""What a receipt says about its delivery: a status update, the same whoever makes it. Pure, no I/O.

A receipt that carries our tracker names its delivery, and the gateway tells track at once; match makes the identical update of one that
comes to it all the same. Whoever sends with the account can write anything where trackers stand: one that we did not sign counts for
nothing, and a signed one that names what it must not is refused, by match.
"""

from typing import NamedTuple

from schemas import tracker
from schemas.keys import DEFAULT_TENANT
from schemas.records import Cause, Receipt, ReceiptStatus, Status, StatusUpdate
from schemas.tracker import Keys
from tables.bindings import BoundDelivery

# Providers tell whole seconds; the truth lies in the second that follows, and never after we heard of it.
PROVIDER_RESOLUTION_MS = 999


class Misled(NamedTuple):
    """A tracker that is ours and names what it must not. `cause` is a code of schemas/causes.py; whose dead letter it is."""

    cause: str
    detail: str
    tenant_id: str


def by_tracker(receipt: Receipt, partitions: int, keys: Keys) -> StatusUpdate | Misled | None:
    """The update for the delivery that the receipt's tracker names, of `partitions` of a conversation's topics; None without a tracker
    that we signed for the receipt's account: then a binding has to tell. `tenant_id` of the receipt is its account's."""
    tracked = tracker.decode(receipt.callback_data, keys, receipt.channel, receipt.account)
    if tracked is None:
        return None
    if tracked.home_partition >= partitions:
        detail = f"the tracker names partition {tracked.home_partition} of {partitions}: from another deployment?"
        return Misled("wrong_partition", detail, tracked.tenant_id)
    # the account may have become another tenant's since
    if receipt.tenant_id not in (DEFAULT_TENANT, tracked.tenant_id):
        detail = f"a receipt of tenant {receipt.tenant_id[:40]!r} names a delivery of tenant {tracked.tenant_id[:40]!r}"
        return Misled("wrong_tenant", detail, receipt.tenant_id)
    bound = BoundDelivery(
        tracked.tenant_id, tracked.delivery_id, tracked.conversation_id, tracked.home_partition, 0, tracked.partial
    )
    return update_of(receipt, bound, tracked.attempt)


def update_of(receipt: Receipt, bound: BoundDelivery, attempt: int = 0) -> StatusUpdate:
    """What track is told. A part that is not the last is only explained (PENDING), unless it failed."""
    moves = not bound.partial or receipt.status is ReceiptStatus.FAILED
    return StatusUpdate(
        tenant_id=bound.tenant_id,
        event_id=receipt.event_id,
        delivery_id=bound.delivery_id,
        conversation_id=bound.conversation_id,
        home_partition=bound.home_partition,
        status=Status(receipt.status) if moves else Status.PENDING,
        cause=Cause.RECEIPT,
        occurred_at=min(receipt.received_at, receipt.provider_at + PROVIDER_RESOLUTION_MS),
        observed_at=receipt.received_at,
        attempt=attempt,
        provider_message_id=receipt.provider_message_id,
        inferred=receipt.inferred,
        reason_code=receipt.error_code,
        reason=receipt.error_title,
    )
