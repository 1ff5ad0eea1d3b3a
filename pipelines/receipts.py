"""Turns a receipt into a status update. No I/O.

In: a receipt, and its delivery from a binding or from the tracker in the receipt. Out: the status update. Guaranteed: the gateway and
stage match make the identical update of the same receipt. Anyone who can send with the account can write the field that carries the
tracker: a tracker without our signature is ignored, and a signed one for another partition or tenant is refused, by match.
"""

from typing import NamedTuple

from schemas import tracker
from schemas.keys import DEFAULT_TENANT
from schemas.message_times import happened_at
from schemas.records import Cause, Receipt, ReceiptStatus, Status, StatusUpdate
from schemas.tracker import Keys
from tables.bindings import BoundDelivery

# Providers report whole seconds: the event happened within the following second, and not later than we received the receipt.
PROVIDER_RESOLUTION_MS = 999


class RefusedReceipt(NamedTuple):
    """A receipt whose tracker or binding names a wrong partition or tenant. `cause` is a code of schemas/causes.py; `tenant_id` owns the
    dead letter."""

    cause: str
    detail: str
    tenant_id: str


def by_tracker(receipt: Receipt, partitions: int, keys: Keys) -> StatusUpdate | RefusedReceipt | None:
    """The update for the delivery that the receipt's tracker names. None without a tracker that one of `keys` signed for the receipt's
    account: then a binding must name the delivery. `partitions` is the number of partitions of a conversation's topics; `tenant_id` of
    the receipt must be the tenant of its account."""
    tracked = tracker.decode(receipt.callback_data, keys, receipt.channel, receipt.account)
    if tracked is None:
        return None
    if tracked.home_partition >= partitions:
        detail = f"the tracker names partition {tracked.home_partition} of {partitions}: from another deployment?"
        return RefusedReceipt("wrong_partition", detail, tracked.tenant_id)
    # the account may belong to another tenant since then
    if receipt.tenant_id not in (DEFAULT_TENANT, tracked.tenant_id):
        detail = f"a receipt of tenant {receipt.tenant_id[:40]!r} names a delivery of tenant {tracked.tenant_id[:40]!r}"
        return RefusedReceipt("wrong_tenant", detail, receipt.tenant_id)
    bound = BoundDelivery(
        tracked.tenant_id, tracked.delivery_id, tracked.conversation_id, tracked.home_partition, 0, tracked.partial
    )
    return update_of(receipt, bound, tracked.attempt)


def by_binding(receipt: Receipt, bound: BoundDelivery) -> StatusUpdate | RefusedReceipt:
    """The update for the delivery that a binding names. `tenant_id` of the receipt must be the tenant of its account, which may belong to
    another tenant since the message was sent."""
    if receipt.tenant_id not in (DEFAULT_TENANT, bound.tenant_id):
        detail = f"a receipt of tenant {receipt.tenant_id[:40]!r} names a delivery of tenant {bound.tenant_id[:40]!r}"
        return RefusedReceipt("wrong_tenant", detail, receipt.tenant_id)
    return update_of(receipt, bound)


def update_of(receipt: Receipt, bound: BoundDelivery, attempt: int = 0) -> StatusUpdate:
    """The status update for track. A receipt of a part that is not the last leaves the status at PENDING, unless the part failed."""
    moves = not bound.partial or receipt.status is ReceiptStatus.FAILED
    return StatusUpdate(
        tenant_id=bound.tenant_id,
        event_id=receipt.event_id,
        delivery_id=bound.delivery_id,
        conversation_id=bound.conversation_id,
        home_partition=bound.home_partition,
        status=Status(receipt.status) if moves else Status.PENDING,
        cause=Cause.RECEIPT,
        occurred_at=_occurred_at(receipt),
        observed_at=receipt.received_at,
        attempt=attempt,
        provider_message_id=receipt.provider_message_id,
        inferred=receipt.inferred,
        reason_code=receipt.error_code,
        reason=receipt.error_title,
    )


def _occurred_at(receipt: Receipt) -> int:
    """When it happened, by the provider's clock; when the receipt arrived, if the provider's time cannot be right."""
    at = happened_at(receipt.provider_at, receipt.received_at)
    return min(receipt.received_at, at + PROVIDER_RESOLUTION_MS)
