"""Receipts that cover more than one delivery: "read up to here". No I/O.

In: a receipt READ of a channel whose reads cover what came before, or a client's CursorReport. Out: the transitions of the earlier
deliveries of the same lane; one that was for later is not covered by what happened before its time. Guaranteed: the deliveries end with the
same statuses and times in any order of such receipts; one receipt looks at MOST_COVERED sequences of the conversation at most, and the rest
follows from a CursorReport that track produces for itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from pipelines.engine.stage import Output
from pipelines.track_state import State
from schemas import codec, ids
from schemas.keys import key_of
from schemas.records import SIGNALS, Cause, CursorReport, Status, StatusUpdate
from tables import timelines
from tables.messages import LoggedMessage, sequence_key
from tables.timelines import Timeline, Transition

MOST_COVERED = 256  # sequences that one receipt looks at in one turn


class LaneOfMember(NamedTuple):
    """Whose deliveries are covered: those to one address on one channel, from one account. `member` is who has the address now; deliveries
    that name another member, or the address alone, are of the same lane."""

    tenant_id: str
    conversation_id: str
    member: str
    channel: str
    account: str
    address: str


class Covered(NamedTuple):
    """One earlier delivery: its key, and what the receipt makes of it."""

    key: bytes
    transition: Transition


def lane_of(row: Timeline) -> LaneOfMember:
    return LaneOfMember(row.tenant_id, row.conversation_id, row.recipient, row.channel, row.account, row.address)


def covered(lane: LaneOfMember, newest: int, update: StatusUpdate, state: State) -> Iterator[Covered | Output]:
    """The deliveries of the lane from sequence `newest` down to one that is covered already, and from there those that were for later.
    `update` has the status, DELIVERED or READ, and the times. Ends with an Output if there is more to look at than one turn may. The caller
    writes the rows while it iterates."""
    seq, passed = newest, False  # passed: one is covered already, and so is everything before it that was not for later
    for _ in range(MOST_COVERED):
        message = state.messages.get(sequence_key(lane.tenant_id, lane.conversation_id, seq)) if seq > 0 else None
        if message is None:
            return  # expired, and everything before it
        for delivery_id in _deliveries_of(lane, message):
            row = state.rows.get(delivery_id.encode())
            if row is None or not row.known or not _is_of(lane, row):
                continue
            if timelines.is_covered(row, update):
                passed = True
            elif not message.was_scheduled or message.kept_from <= update.occurred_at:
                # the attempt is one of the later delivery
                about = replace(update, delivery_id=delivery_id, event_id=_event_id(update, delivery_id), attempt=0)
                yield Covered(delivery_id.encode(), timelines.cover(row, about))
        seq = message.scheduled_before if passed else seq - 1
    if seq > 0:
        yield rest(lane, seq, update, state)


def update_of(report: CursorReport, status: Status) -> StatusUpdate:
    """A client's report as an update without a delivery."""
    return StatusUpdate(
        tenant_id=report.tenant_id,
        event_id=f"{report.event_id}:{status.lower()}" if len(report.event_id) < 900 else report.event_id,
        delivery_id="-",
        conversation_id=report.conversation_id,
        home_partition=report.home_partition,
        status=status,
        cause=Cause.RECEIPT,
        occurred_at=min(report.occurred_at, report.observed_at),
        observed_at=report.observed_at,
    )


def _is_of(lane: LaneOfMember, row: Timeline) -> bool:
    return lane_of(row)._replace(member=lane.member) == lane


def _deliveries_of(lane: LaneOfMember, message: LoggedMessage) -> Sequence[str]:
    """The deliveries of the message that can be the lane's. In a group the id follows from what it is made from: from the member, or from
    the address where the message named no user."""
    if message.kind in SIGNALS or len(message.delivery_ids) <= 1:
        return () if message.kind in SIGNALS else message.delivery_ids
    of = (lane.tenant_id, lane.conversation_id, message.message_id)
    named = dict.fromkeys((lane.member, lane.address))
    return [ids.delivery_id(*of, recipient, lane.channel, lane.address) for recipient in named]


def _event_id(update: StatusUpdate, delivery_id: str) -> str:
    return f"covered:{ids.digest((update.event_id, delivery_id), 16).hex()}"


def rest(lane: LaneOfMember, up_to: int, update: StatusUpdate, state: State) -> Output:
    """What `covered` would do from sequence `up_to` down, as a report to this partition for a later turn."""
    is_read = update.status is Status.READ
    report = CursorReport(
        tenant_id=lane.tenant_id,
        event_id=update.event_id,
        conversation_id=lane.conversation_id,
        home_partition=state.partition,
        channel=lane.channel,
        account=lane.account,
        address=lane.address,
        delivered_up_to=None if is_read else up_to,
        read_up_to=up_to if is_read else None,
        occurred_at=update.occurred_at,
        observed_at=update.observed_at,
    )
    return Output("cursor-reports", key_of(report), codec.encode(report), state.partition)
