"""Table `timelines` of stage track: what is known about a delivery, and the one rule that gives its status. Key: delivery id.

A row keeps evidence instead of a status: the earliest time at which each thing was seen to happen. The status is a function of the
evidence. So the same updates give the same row in any order and with any repetitions, and a status never moves backwards.
"""

import hashlib
from typing import Any, NamedTuple

from schemas.records import Cause, DeliveryRef, DeliveryState, SequencedMessage, Status, StatusUpdate

MOST_EARLY = 64  # updates of one delivery that may wait for its record of the conversation log
KEPT_EVENTS = 64  # events remembered per delivery; a delivery has far fewer unless it is retried for days
# If several were seen, the first in this order counts.
FAILURES = (Status.FAILED, Status.EXPIRED, Status.CANCELLED, Status.SUPPRESSED)
_ARRIVED = (Status.DELIVERED, Status.READ)


class Timeline(NamedTuple):
    """What is known about one delivery. Times are Unix milliseconds; None: not seen yet. tables/timeline_layout.py makes its bytes.

    Until the delivery's record of the conversation log comes, `known` is false, the fields from `message_id` to `accepted_at` have their
    defaults, and updates wait in `early`.
    """

    tenant_id: str
    conversation_id: str
    known: bool = False  # whether the conversation log's record has come
    message_id: str = ""
    seq: int = 0  # the message's sequence in its conversation
    channel: str = ""
    account: str = ""  # our account that sends
    recipient: str = ""  # user id, or the address if the message named an address
    address: str = ""  # the recipient's address on the channel
    kind: str = "text"  # kind of content
    requested_at: int = 0  # when the application asked for the message
    accepted_at: int = 0  # when route accepted the message
    version: int = 0  # number of transitions published so far
    dispatched_at: int | None = None  # when the call of the latest attempt started
    sent_at: int | None = None  # when the provider accepted it
    delivered_at: int | None = None  # when it reached the recipient
    read_at: int | None = None  # when the recipient read it
    failed_at: int | None = None  # when it first failed, expired, or was cancelled or suppressed
    failure: str | None = None  # the status of that failure, one of FAILURES
    attempts: int = 0  # the highest number of an attempt that is known
    resends: int = 0  # number of attempts that repeated one with an unknown outcome
    provider_message_id: str | None = None  # after a resend there may be two: the first one in the alphabet
    reason_code: str | None = None  # code of the latest refusal or failure that gave one
    reason: str | None = None  # its sentence
    reason_at: int = 0  # when it occurred; 0: none did
    events: tuple[int, ...] = ()  # digests of the ids of the updates already applied (`digest_of`), the newest last
    updated_at: int = 0  # by our clock; the row expires CHAT4ALL_STATE_DAYS later
    # updates that came before the conversation log's record, each event of a tenant once
    early: tuple[StatusUpdate, ...] = ()
    places: tuple[tuple[int, int], ...] = ()  # offset and timestamp of the records of `early`
    # of this delivery among those to its member (tables/cursors.py); 0 in rows made before there were cursors
    number: int = 0
    # when a receipt said that everything up to a later message of the lane had arrived, or was read; counts once this one was sent
    covered_delivered_at: int | None = None
    covered_read_at: int | None = None
    stalled_at: int | None = None  # since when it is SENT for longer than its channel's time; a label, never a status
    not_before: int | None = None  # the time that the message is scheduled for, if that is after its acceptance
    ready_at: int | None = None  # when it became the first of its lane; the earliest known
    first_dispatched_at: int | None = None  # when the call of the first attempt started
    throttles: int = 0  # number of attempts that the provider refused only because we sent too fast
    fallback_of: str | None = None  # the delivery in whose place this one was made


class Transition(NamedTuple):
    """The result of one update: the delivery's new row, and what to publish; None if there is nothing new to publish."""

    row: Timeline
    published: DeliveryState | None


def status(row: Timeline) -> Status:
    """The status that the evidence gives: READ or DELIVERED before a failure, a failure before SENT, and PENDING without any. Pure."""
    if _read_at(row) is not None:
        return Status.READ
    if _delivered_at(row) is not None:
        return Status.DELIVERED
    if row.failure is not None:
        return Status(row.failure)
    return Status.PENDING if row.sent_at is None else Status.SENT


def digest_of(event_id: str) -> int:
    """Eight bytes in place of an event's id, as an unsigned number. A row keeps at most 64, so two equal ones by chance are out of
    reach."""
    return int.from_bytes(hashlib.blake2b(event_id.encode(), digest_size=8).digest(), "little")


def apply(row: Timeline, update: StatusUpdate) -> Transition:
    """Applies one update to a delivery whose record of the conversation log has come (`row.known`). Pure."""
    event = digest_of(update.event_id)
    if event in row.events:
        return Transition(row, None)
    before = status(row)
    row = _with(row, update, event)
    return Transition(row, _published(row, update, before))


def cover(row: Timeline, update: StatusUpdate) -> Transition:
    """Applies a receipt for a later message of the lane, which covers this delivery: `update.status` is DELIVERED or READ, and
    `update.occurred_at` its time. Repeating it changes nothing. Pure."""
    before, seen = status(row), (_delivered_at(row), _read_at(row))
    at = _not_ahead(update)  # as it is: whether a later receipt covers more is decided by comparing these
    if update.status is Status.READ:
        row = row._replace(covered_read_at=_earliest(row.covered_read_at, at))
    else:
        row = row._replace(covered_delivered_at=_earliest(row.covered_delivered_at, at))
    if seen == (_delivered_at(row), _read_at(row)):
        return Transition(row, None)  # not sent yet, or known already
    return _relabelled(row, update, before)


def is_covered(row: Timeline, update: StatusUpdate) -> bool:
    """Whether `cover` would change nothing: then it was applied to every earlier delivery of the lane too. Pure."""
    at = row.covered_read_at if update.status is Status.READ else row.covered_delivered_at
    return at is not None and at <= _not_ahead(update)


def stall(row: Timeline, update: StatusUpdate) -> Transition:
    """Labels a delivery as stalled from `update.observed_at` on. Pure."""
    return _relabelled(row._replace(stalled_at=update.observed_at), update, status(row))


def _relabelled(row: Timeline, update: StatusUpdate, before: Status) -> Transition:
    row = row._replace(version=row.version + 1, updated_at=max(row.updated_at, update.observed_at))
    row = _cleared(row)
    return Transition(row, _published(row, update, before))


def _cleared(row: Timeline) -> Timeline:
    """A delivery that is no longer SENT is not stalled."""
    return row if row.stalled_at is None or status(row) is Status.SENT else row._replace(stalled_at=None)


def arrived(row: Timeline) -> tuple[int | None, int | None]:
    """When it reached the recipient and when the recipient read it, also by receipts for later messages; None: not seen yet. Pure."""
    return _delivered_at(row), _read_at(row)


def _read_at(row: Timeline) -> int | None:
    """When it was read, by a receipt for it or for a later one; a delivery that was never sent is not covered."""
    return _earliest(row.read_at, _covered(row, row.covered_read_at))


def _delivered_at(row: Timeline) -> int | None:
    return _earliest(row.delivered_at, _covered(row, row.covered_delivered_at))


def _covered(row: Timeline, at: int | None) -> int | None:
    return max(row.accepted_at, at) if at is not None and _was_sent(row) else None


def is_time_corrected(row: Timeline, update: StatusUpdate) -> bool:
    """Whether the update's time cannot be true, so that another one counts. Pure."""
    return _plausible(row, update) != update.occurred_at


def _plausible(row: Timeline, update: StatusUpdate) -> int:
    """When it happened: not before the message was accepted, and not after we learned of it, whatever the provider's clock says."""
    return max(row.accepted_at, _not_ahead(update))


def _not_ahead(update: StatusUpdate) -> int:
    return min(update.occurred_at, update.observed_at)


def _was_sent(row: Timeline) -> bool:
    return row.sent_at is not None or row.delivered_at is not None or row.read_at is not None


def introduce(message: SequencedMessage, ref: DeliveryRef, partition: int, now: int) -> tuple[Timeline, DeliveryState]:
    """The row of a delivery that the conversation log names, and its first transition, to PENDING. `partition` is its home partition, `now`
    our clock in Unix milliseconds. Pure."""
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
        not_before=_scheduled(message),
        fallback_of=ref.fallback_of,
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
    return row, _published(row, created, Status.PENDING)


def _scheduled(message: SequencedMessage) -> int | None:
    """The time that the message is scheduled for; a time that was over when the message was accepted means at once."""
    at = message.not_before
    return at if at is not None and at > message.accepted_at else None


def _with(row: Timeline, update: StatusUpdate, event: int) -> Timeline:
    """The row with the evidence of the update."""
    changed: dict[str, Any] = {
        "version": row.version + 1,
        "events": (*row.events, event)[-KEPT_EVENTS:],
        "attempts": max(row.attempts, update.attempt),
        "resends": row.resends + (update.cause is Cause.RESENT),
        "throttles": row.throttles + update.throttled,
        "ready_at": _earliest(row.ready_at, _accepted(row, update.ready_at)),
        "dispatched_at": _latest(row.dispatched_at, _accepted(row, update.dispatched_at)),
        "first_dispatched_at": _earliest(row.first_dispatched_at, _accepted(row, update.dispatched_at)),
        "provider_message_id": _first_id(row.provider_message_id, update.provider_message_id),
        "updated_at": max(row.updated_at, update.observed_at),
    }
    at = _plausible(row, update)
    if update.status is Status.SENT:
        changed["sent_at"] = _earliest(row.sent_at, at)
    elif update.status is Status.DELIVERED:
        changed["delivered_at"] = _earliest(row.delivered_at, at)
    elif update.status is Status.READ:
        changed["read_at"] = _earliest(row.read_at, at)
    elif update.status in FAILURES:
        changed["failed_at"] = _earliest(row.failed_at, at)
        changed["failure"] = _first_failure(row.failure, update.status)
    given = (at, update.reason_code or "", update.reason or "")
    if update.reason_code is not None and given > (row.reason_at, row.reason_code or "", row.reason or ""):
        changed["reason_at"], changed["reason_code"], changed["reason"] = at, update.reason_code, update.reason
    return _cleared(row._replace(**changed))


def _accepted(row: Timeline, at: int | None) -> int | None:
    """A time of ours: not before the message was accepted, also where the clocks of two workers differ or one went back."""
    return None if at is None else max(row.accepted_at, at)


def ready_at(row: Timeline) -> int | None:
    """When it became the first of its lane: not after the call of its first attempt, whatever order the updates had. Pure."""
    first = row.first_dispatched_at
    return row.ready_at if row.ready_at is None or first is None else min(row.ready_at, first)


def _anomaly(before: Status, update: StatusUpdate, now: Status) -> str | None:
    """How the update, a receipt for a later message included, contradicts the status before; None if it does not."""
    if before in FAILURES and now in _ARRIVED:
        return f"{now} after {before}"
    return f"{update.status} after {before}" if update.status in FAILURES and before in _ARRIVED else None


def _published(row: Timeline, update: StatusUpdate, before: Status) -> DeliveryState:
    """The record of a transition: `row` is the row after the update, `before` the status before it."""
    now = status(row)
    reached = now in _ARRIVED
    delivered_at, read_at = _delivered_at(row), _read_at(row)
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
        anomaly=_anomaly(before, update, now),
        occurred_at=update.occurred_at,
        observed_at=update.observed_at,
        requested_at=row.requested_at,
        accepted_at=row.accepted_at,
        dispatched_at=row.dispatched_at,
        sent_at=_earliest(row.sent_at, _earliest(delivered_at, read_at)) if reached else row.sent_at,
        delivered_at=_earliest(delivered_at, read_at),
        read_at=read_at,
        failed_at=None if reached else row.failed_at,
        delivered_implied=delivered_at is None and read_at is not None,
        attempts=row.attempts,
        resends=row.resends,
        provider_message_id=row.provider_message_id,
        reason_code=row.reason_code,
        reason=row.reason,
        stalled_at=row.stalled_at,
        attempt=update.attempt,
        reported=str(update.status),
        throttled=update.throttled,
        retry_at=update.retry_at,
        throttles=row.throttles,
        not_before=row.not_before,
        ready_at=ready_at(row),
        first_dispatched_at=row.first_dispatched_at,
        fallback_of=row.fallback_of,
    )


def _earliest(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


def _latest(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else max(one, other)


def _first_id(one: str | None, other: str | None) -> str | None:
    return other if one is None else one if other is None else min(one, other)


def _first_failure(known: str | None, seen: Status) -> str:
    return str(seen) if known is None else min(Status(known), seen, key=FAILURES.index)
