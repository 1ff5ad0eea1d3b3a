"""Table `timelines` of stage track: what is known of a delivery, and the one rule by which its status moves. Key: delivery id.

A row keeps evidence, not a status that is overwritten: the earliest time of each thing that was seen to happen. The status is a
function of the evidence, so any order and any repetition of the same updates ends in the same row, and nothing goes backwards.
"""

import hashlib
from typing import Any, NamedTuple

from schemas.records import Cause, DeliveryRef, DeliveryState, SequencedMessage, Status, StatusUpdate

MOST_EARLY = 64  # updates that wait for the conversation log's record
KEPT_EVENTS = 64  # events remembered per delivery; far above what a delivery sees unless it is retried for days
# the first of them that was seen wins, in this order
FAILURES = (Status.FAILED, Status.EXPIRED, Status.CANCELLED, Status.SUPPRESSED)


class Timeline(NamedTuple):
    """Times are Unix milliseconds, None while not seen. `known` turns true with the conversation log's record. Its bytes:
    tables/timeline_layout.py."""

    tenant_id: str
    conversation_id: str
    known: bool = False
    message_id: str = ""
    seq: int = 0
    channel: str = ""
    account: str = ""
    recipient: str = ""
    address: str = ""
    kind: str = "text"
    requested_at: int = 0
    accepted_at: int = 0
    version: int = 0  # transitions published so far
    dispatched_at: int | None = None  # the latest attempt's
    sent_at: int | None = None
    delivered_at: int | None = None
    read_at: int | None = None
    failed_at: int | None = None
    failure: str | None = None  # which of the failing statuses
    attempts: int = 0
    resends: int = 0
    # after a resend there may be two: the first in the alphabet, whichever came first
    provider_message_id: str | None = None
    reason_code: str | None = None  # of the latest thing that gave one
    reason: str | None = None
    reason_at: int = 0  # when that occurred
    events: tuple[int, ...] = ()  # digests of the ids already taken (`digest_of`), the newest last
    updated_at: int = 0  # by our clock; the row lives for the state window from here
    early: tuple[StatusUpdate, ...] = ()  # what came before the conversation log's record, each event of a tenant once
    places: tuple[tuple[int, int], ...] = ()  # offset and timestamp of the records of `early`


class Transition(NamedTuple):
    """A delivery after one update: its row, and what to publish, None when the row has taken this update before."""

    row: Timeline
    published: DeliveryState | None


def status(row: Timeline) -> Status:
    """Positive evidence beats a failure, a failure beats a mere acceptance."""
    if row.read_at is not None:
        return Status.READ
    if row.delivered_at is not None:
        return Status.DELIVERED
    if row.failure is not None:
        return Status(row.failure)
    return Status.PENDING if row.sent_at is None else Status.SENT


def digest_of(event_id: str) -> int:
    """Eight bytes that stand for an event's id: a row remembers so many at most that two of them are never alike by chance."""
    return int.from_bytes(hashlib.blake2b(event_id.encode(), digest_size=8).digest(), "little")


def apply(row: Timeline, update: StatusUpdate) -> Transition:
    """What one update does to a delivery that the conversation log has introduced (`row.known`). Pure."""
    event = digest_of(update.event_id)
    if event in row.events:
        return Transition(row, None)
    before = status(row)
    row, anomaly = _with(row, update, event, before)
    return Transition(row, _published(row, update, before, anomaly))


def introduce(message: SequencedMessage, ref: DeliveryRef, partition: int, now: int) -> tuple[Timeline, DeliveryState]:
    """A delivery's row and its first transition: the conversation log has it, and nothing has happened to it. `partition` is its home
    partition, `now` our clock in Unix milliseconds. Pure."""
    row = Timeline(
        tenant_id=message.tenant_id,
        conversation_id=message.conversation_id,
        known=True,
        message_id=message.message_id,
        seq=message.seq,
        channel=ref.channel,
        account=ref.account,
        recipient=ref.recipient,
        address=ref.address,
        kind=message.kind,
        requested_at=message.requested_at,
        accepted_at=message.accepted_at,
        version=1,
        # a delivery that is scheduled for later is kept for the state window from then
        updated_at=max(message.accepted_at, message.not_before or 0),
    )
    created = StatusUpdate(
        tenant_id=message.tenant_id,
        event_id=f"{ref.delivery_id}:created",
        delivery_id=ref.delivery_id,
        conversation_id=message.conversation_id,
        home_partition=partition,
        status=Status.PENDING,
        cause=Cause.CREATED,
        occurred_at=message.accepted_at,
        observed_at=now,
    )
    return row, _published(row, created, Status.PENDING, None)


def _with(row: Timeline, update: StatusUpdate, event: int, before: Status) -> tuple[Timeline, str | None]:
    """The row with what the update proves, and how the update contradicts what was known, if it does."""
    changed: dict[str, Any] = {
        "version": row.version + 1,
        "events": (*row.events, event)[-KEPT_EVENTS:],
        "attempts": max(row.attempts, update.attempt),
        "resends": row.resends + (update.cause is Cause.RESENT),
        "dispatched_at": _latest(row.dispatched_at, update.dispatched_at),
        "provider_message_id": _first_id(row.provider_message_id, update.provider_message_id),
        "updated_at": max(row.updated_at, update.observed_at),
    }
    at = update.occurred_at
    anomaly = None
    if update.status is Status.SENT:
        changed["sent_at"] = _earliest(row.sent_at, at)
    elif update.status is Status.DELIVERED:
        changed["delivered_at"] = _earliest(row.delivered_at, at)
    elif update.status is Status.READ:
        changed["read_at"] = _earliest(row.read_at, at)
    elif update.status in FAILURES:
        changed["failed_at"] = _earliest(row.failed_at, at)
        changed["failure"] = _first_failure(row.failure, update.status)
        if before in (Status.DELIVERED, Status.READ):
            anomaly = f"{update.status} after {before}"
    if update.status in (Status.DELIVERED, Status.READ) and before in FAILURES:
        anomaly = f"{update.status} after {before}"
    said = (at, update.reason_code or "", update.reason or "")
    if update.reason_code is not None and said > (row.reason_at, row.reason_code or "", row.reason or ""):
        changed["reason_at"], changed["reason_code"], changed["reason"] = at, update.reason_code, update.reason
    return row._replace(**changed), anomaly


def _published(row: Timeline, update: StatusUpdate, before: Status, anomaly: str | None) -> DeliveryState:
    """The record of a transition: `row` is what is known after the update, `before` the status before it."""
    now = status(row)
    reached = now in (Status.DELIVERED, Status.READ)
    return DeliveryState(
        tenant_id=row.tenant_id,
        event_id=update.event_id,
        delivery_id=update.delivery_id,
        message_id=row.message_id,
        conversation_id=row.conversation_id,
        home_partition=update.home_partition,
        seq=row.seq,
        channel=row.channel,
        account=row.account,
        recipient=row.recipient,
        address=row.address,
        kind=row.kind,
        version=row.version,
        previous_status=before,
        status=now,
        cause=update.cause,
        anomaly=anomaly,
        occurred_at=update.occurred_at,
        observed_at=update.observed_at,
        requested_at=row.requested_at,
        accepted_at=row.accepted_at,
        dispatched_at=row.dispatched_at,
        sent_at=_earliest(row.sent_at, _earliest(row.delivered_at, row.read_at)) if reached else row.sent_at,
        delivered_at=_earliest(row.delivered_at, row.read_at),
        read_at=row.read_at,
        failed_at=None if reached else row.failed_at,
        delivered_implied=row.delivered_at is None and row.read_at is not None,
        attempts=row.attempts,
        resends=row.resends,
        provider_message_id=row.provider_message_id,
        reason_code=row.reason_code,
        reason=row.reason,
    )


def _earliest(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


def _latest(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else max(one, other)


def _first_id(one: str | None, other: str | None) -> str | None:
    return other if one is None else one if other is None else min(one, other)


def _first_failure(known: str | None, seen: Status) -> str:
    return str(seen) if known is None else min(Status(known), seen, key=FAILURES.index)
