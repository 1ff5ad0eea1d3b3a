"""The cursors of stage track: how far each member of a conversation has been delivered and has read. No I/O.

In: new deliveries, transitions, messages of members. Out: rows of table `cursors`, and records of topic `cursors` whenever one of the two
cursors of a member has changed. Guaranteed: what tables/cursors.py guarantees; the versions of a member's cursor are 1, 2, 3 and so on.
"""

from collections.abc import Callable, Mapping

from connectors.base import Observed
from pipelines.engine.stage import Decision, Output
from pipelines.track_state import State
from schemas import codec
from schemas.records import SIGNALS, DeliveryRef, DeliveryState, SequencedMessage, Status
from tables import cursors, timelines
from tables.cursors import MemberCursor, cursor_key
from tables.member_addresses import AddressOfMember, address_key
from tables.timelines import Timeline

_NOTHING = Observed(delivered=False, read=False)


class CursorUpdates:
    """The changes of one cursor each. `observed` has for each channel what it reports. Nothing blocks; all on the worker's event loop."""

    def __init__(self, observed: Mapping[str, Observed]) -> None:
        self._observed = observed

    def number(self, message: SequencedMessage, ref: DeliveryRef, state: State, decision: Decision, now: int) -> int:
        """The number of a new delivery among those to its member; 0 for a signal, which nobody reads. The first delivery on a channel that
        reports more than the member's channels before makes a cursor known."""
        if message.kind in SIGNALS:
            return 0
        of = (message.tenant_id, message.conversation_id)
        if ref.recipient != ref.address:
            at, named = address_key(*of, ref.channel, ref.address), AddressOfMember(ref.recipient)
            if state.member_addresses.get(at) != named:
                state.member_addresses.put(at, named)
        key = cursor_key(*of, ref.recipient).encode()
        before = state.cursors.get(key)
        sees = self._observed.get(ref.channel, _NOTHING)
        cursor = cursors.made(
            before or MemberCursor(*of, ref.recipient), message.seq, sees_delivered=sees.delivered, sees_read=sees.read
        )
        if before is None:
            state.cursors.put(key, cursor)
        else:
            self._put(key, before, cursor, decision, state=state, now=now)
        return cursor.made

    def move(self, row: Timeline, transition: DeliveryState, state: State, decision: Decision) -> None:
        """What a transition of a delivery does to its member's cursor."""
        status, number = transition.status, row.number
        sees = self._observed.get(row.channel, _NOTHING)
        failed, arrived = status in timelines.FAILURES, status in (Status.DELIVERED, Status.READ)
        if not number or not (failed or arrived or (status is Status.SENT and not sees.delivered)):
            return

        def moved(cursor: MemberCursor) -> MemberCursor:
            cursor = cursors.ended(cursor, number, row.seq, observed=failed or arrived, failed=failed)
            return cursors.read(cursor, number, row.seq) if status is Status.READ else cursor

        self._change(row, state, decision, transition.observed_at, moved)

    def forget(self, row: Timeline, state: State, decision: Decision, now: int) -> None:
        """A delivery's row expires: nothing is awaited for it any more."""
        if row.number:
            self._change(
                row, state, decision, now, lambda cursor: cursors.ended(cursor, row.number, row.seq, observed=False)
            )

    def reply(self, message: SequencedMessage, state: State, decision: Decision, now: int) -> None:
        """Who writes has read what had arrived before."""
        channel = message.metadata.get("channel", "")
        found = self.at_address(message.tenant_id, message.conversation_id, channel, message.sender, state)
        if found is not None:
            key, cursor = found
            moved = cursors.read(cursor, cursor.ended, cursor.ended_seq)._replace(sees_read=True)
            self._put(key, cursor, moved, decision, state=state, now=now)

    def at_address(
        self, tenant_id: str, conversation_id: str, channel: str, address: str, state: State
    ) -> tuple[bytes, MemberCursor] | None:
        """Key and cursor of the member who has an address; None if nothing was delivered to it in this conversation."""
        named = state.member_addresses.get(address_key(tenant_id, conversation_id, channel, address))
        member = address if named is None else named.member
        key = cursor_key(tenant_id, conversation_id, member).encode()
        cursor = state.cursors.get(key)
        return None if cursor is None else (key, cursor)

    def _change(
        self, row: Timeline, state: State, decision: Decision, now: int, change: Callable[[MemberCursor], MemberCursor]
    ) -> None:
        key = cursor_key(row.tenant_id, row.conversation_id, row.recipient).encode()
        cursor = state.cursors.get(key)
        if cursor is not None:
            self._put(key, cursor, change(cursor), decision, state=state, now=now)

    def _put(
        self, key: bytes, before: MemberCursor, cursor: MemberCursor, decision: Decision, *, state: State, now: int
    ) -> None:
        if cursor == before:
            return
        if (cursor.last_delivered_seq, cursor.last_read_seq) != (before.last_delivered_seq, before.last_read_seq):
            cursor = cursor._replace(version=cursor.version + 1, updated_at=now)
            decision.outputs.append(
                Output("cursors", key, codec.encode(cursor.published(state.partition)), state.partition)
            )
        state.cursors.put(key, cursor)
