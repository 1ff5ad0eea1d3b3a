"""The state of one partition of stage track: its tables, and small decisions on one of them each. No I/O.

In: transitions of deliveries. Out: changed rows. Guaranteed: `message_states` counts every delivery of a message with several once;
`awaiting` and `stalled` have a row only for deliveries that are SENT.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.engine.stage import Decision, Tables
from schemas.records import Cause, DeliveryState, SequencedMessage, Status, StatusUpdate
from tables import messages
from tables.cursors import MemberCursor
from tables.member_addresses import AddressOfMember
from tables.messages import LoggedMessage, MessageState, sequence_key
from tables.stalled import Awaited, StalledDelivery
from tables.table import Table
from tables.timelines import Timeline


@dataclass(slots=True)
class State:
    """One partition of track."""

    partition: int
    rows: Table[Timeline]
    cursors: Table[MemberCursor]
    member_addresses: Table[AddressOfMember]
    messages: Table[LoggedMessage]
    message_states: Table[MessageState]
    awaiting: Table[Awaited]
    stalled: Table[StalledDelivery]

    @classmethod
    def opened(cls, partition: int, tables: Tables) -> "State":
        names = ("cursors", "member_addresses", "messages", "message_states", "awaiting", "stalled")
        return cls(partition, tables["timelines"], *(tables[name] for name in names))

    def next_due(self, state_ms: int) -> int | None:
        dues = (self.rows.oldest(), self.messages.oldest())
        ends = [due + state_ms for due in dues if due is not None]
        awaited = self.awaiting.oldest()
        return min(ends if awaited is None else [*ends, awaited], default=None)

    # --- messages -------------------------------------------------------------------------------------------------------

    def log(self, message: SequencedMessage, now: int) -> None:
        """Notes a message of the conversation log, once."""
        key = sequence_key(message.tenant_id, message.conversation_id, message.seq)
        if key in self.messages:
            return
        of = (message.tenant_id, message.conversation_id, message.message_id, message.seq)
        kept_from = max(message.accepted_at, message.not_before or 0)
        made = tuple([ref.delivery_id for ref in message.deliveries])
        about = (str(message.direction), message.kind, message.accepted_at, kept_from)
        before = self.messages.get(sequence_key(message.tenant_id, message.conversation_id, message.seq - 1))
        scheduled = 0 if before is None else before.seq if before.was_scheduled else before.scheduled_before
        self.messages.put(key, LoggedMessage(*of, *about, made, scheduled))
        if len(made) > 1:
            self.message_states.put(key, MessageState(*of, messages.pending(len(made)), now))

    def roll_up(self, transition: DeliveryState) -> None:
        """Counts a changed status in the state of the message."""
        if transition.status is transition.previous_status or not len(self.message_states):
            return
        key = sequence_key(transition.tenant_id, transition.conversation_id, transition.seq)
        before = self.message_states.get(key)
        if before is not None:
            status = (transition.previous_status, transition.status)
            self.message_states.put(key, messages.moved(before, *status, transition.observed_at))

    def forget_messages(self, until: int, at_most: int) -> None:
        for key in self.messages.expired(until, at_most):
            self.messages.delete(key)
            self.message_states.delete(key)

    # --- stalled --------------------------------------------------------------------------------------------------------

    def await_more(self, key: bytes, transition: DeliveryState, limits: Mapping[str, int], decision: Decision) -> None:
        """Starts the channel's time when a delivery becomes SENT, and ends it, or the label, with any other status."""
        limit = limits.get(transition.channel)
        if limit is None or transition.status is transition.previous_status:
            return
        if transition.status is Status.SENT:
            if transition.provider_message_id is None:
                return  # a signal, or a reaction: the provider keeps nothing that it could report on
            self.awaiting.put(key, Awaited(transition.observed_at + limit))
        elif transition.previous_status is Status.SENT:
            self.awaiting.delete(key)
            if key in self.stalled:
                self.stalled.delete(key)
                decision.count("stalled_cleared")

    def forget(self, key: bytes) -> None:
        """Deletes a delivery."""
        for table in (self.rows, self.awaiting, self.stalled):
            table.delete(key)


def stalled_row(row: Timeline, now: int) -> StalledDelivery:
    of = (row.tenant_id, row.conversation_id, row.message_id, row.seq, row.channel, row.account)
    return StalledDelivery(*of, row.sent_at, now)


def stalled_update(delivery_id: str, row: Timeline, due_at: int, *, partition: int, now: int) -> StatusUpdate:
    """The update that labels a delivery. Its id is made from when it was due, so a repeated turn makes the same one."""
    return StatusUpdate(
        tenant_id=row.tenant_id,
        event_id=f"{delivery_id}:stalled:{due_at}",
        delivery_id=delivery_id,
        conversation_id=row.conversation_id,
        home_partition=partition,
        status=Status.SENT,
        cause=Cause.STALLED,
        occurred_at=due_at,
        observed_at=now,
    )
