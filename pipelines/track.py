"""Stage track: keeps the timeline of each delivery and publishes every transition.

In: conversation-log (which deliveries exist) and status-updates (what happened to them), in any order between the two. Out:
delivery-states and cursors, to the home partition. Guaranteed: neither a status nor a cursor goes backwards; the same updates, in any order
and repeated any number of times, end in the same timeline; the versions of a delivery are 1, 2, 3 and so on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from pipelines.engine.stage import Decision, Inputs, Output, Record, Refusal, Source, Stage, Tables
from pipelines.typed_record import typed
from schemas import codec
from schemas.keys import key_of
from schemas.records import (
    SIGNALS,
    Cursor,
    DeliveryRef,
    DeliveryState,
    Direction,
    SequencedMessage,
    Status,
    StatusUpdate,
)
from tables import cursors, timelines
from tables.cursors import CURSORS, MemberCursor, cursor_key
from tables.layout import Layout
from tables.table import Table
from tables.timeline_layout import TIMELINES
from tables.timelines import Timeline

EXPIRED_PER_TURN = 2000


@dataclass(slots=True)
class State:
    """One partition of track."""

    partition: int
    rows: Table[Timeline]
    cursors: Table[MemberCursor]


class Track(Stage[State]):
    """A delivery is kept in table `timelines` for `state_ms` after its last update. `observed` has for
    each channel whether it reports arrivals, and whether it reports reads. No method blocks or does I/O; all run on the worker's
    event loop."""

    name = "track"
    sources = (Source("conversation-log"), Source("status-updates"))
    tables: ClassVar[tuple[Layout[Any], ...]] = (TIMELINES, CURSORS)
    linger_ms = 50  # status updates are not urgent: fewer, larger turns leave CPU time for route and send

    def __init__(self, *, state_ms: int, observed: Mapping[str, tuple[bool, bool]]) -> None:
        self._state_ms = state_ms
        self._observed = observed

    def open(self, partition: int, tables: Tables) -> State:
        return State(partition, tables["timelines"], tables["cursors"])

    def next_due(self, state: State) -> int | None:
        oldest = state.rows.oldest()
        return None if oldest is None else oldest + self._state_ms

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:
        """Introduces deliveries, applies updates, and forgets deliveries without an update for `state_ms`. Reads and writes `timelines`.

        Refuses: wrong_tenant, too_many_waiting, and what cannot be decoded. Raises nothing on purpose."""
        decision = Decision()
        for record in inputs.records:
            try:
                if record.topic == "conversation-log":
                    self._introduce(typed(record, SequencedMessage), state, decision, now)
                else:
                    self._take(record, typed(record, StatusUpdate), state, decision)
            except codec.CodecError as error:
                decision.refusals.append(Refusal(record, error.cause, str(error)))
        self._expire(state, decision, now)
        return decision

    def _introduce(self, message: SequencedMessage, state: State, decision: Decision, now: int) -> None:
        if message.direction is Direction.INBOUND:
            self._replied(message, state, decision, now)
        for ref in message.deliveries:
            key = ref.delivery_id.encode()
            row = state.rows.get(key)
            if row is not None and row.known:
                continue
            early = [] if row is None else list(zip(row.early, row.places, strict=True))
            row, published = timelines.introduce(message, ref, state.partition, now)
            row = row._replace(number=self._numbered(message, ref, state))
            state.rows.put(key, row)
            decision.count("introduced")
            self._publish(published, state, decision)
            for update, place in early:
                if update.tenant_id == row.tenant_id:
                    row = self._update(key, row, update, state, decision)
                else:  # only a refused update becomes a record again
                    record = Record("status-updates", state.partition, *place, key_of(update), codec.encode(update), ())
                    decision.refusals.append(_foreign(record, update, row))

    def _take(self, record: Record, update: StatusUpdate, state: State, decision: Decision) -> None:
        """Applies the update, or keeps it until its delivery is introduced. Refuses one for a delivery of another tenant."""
        key = update.delivery_id.encode()
        row = state.rows.get(key)
        if row is None or not row.known:
            waiting = row or Timeline(update.tenant_id, update.conversation_id, updated_at=update.observed_at)
            self._keep_waiting(record, update, waiting, state, decision)
        elif update.tenant_id != row.tenant_id:
            decision.refusals.append(_foreign(record, update, row))
        else:
            self._update(key, row, update, state, decision)

    def _keep_waiting(
        self, record: Record, update: StatusUpdate, row: Timeline, state: State, decision: Decision
    ) -> None:
        if any((each.tenant_id, each.event_id) == (update.tenant_id, update.event_id) for each in row.early):
            decision.count("repeated")
            return
        if len(row.early) >= timelines.MOST_EARLY:
            decision.count("too_many_waiting")
            detail = f"{len(row.early)} updates wait already for a delivery that is not in the conversation log yet"
            decision.refusals.append(Refusal(record, "too_many_waiting", detail, update.tenant_id))
            return
        places = (*row.places, (record.offset, record.timestamp))
        row = row._replace(early=(*row.early, update), places=places)
        state.rows.put(update.delivery_id.encode(), row)

    def _update(self, key: bytes, row: Timeline, update: StatusUpdate, state: State, decision: Decision) -> Timeline:
        """Applies and publishes an update; returns the row after it."""
        row, published = timelines.apply(row, update)
        if published is None:
            decision.count("repeated")
            return row
        state.rows.put(key, row)
        if published.status is not published.previous_status:
            decision.count(published.status.lower())
        if published.anomaly is not None:
            decision.count("anomaly")
        self._publish(published, state, decision)
        self._move(row, published, state, decision)
        return row

    def _publish(self, transition: DeliveryState, state: State, decision: Decision) -> None:
        output = Output("delivery-states", key_of(transition), codec.encode(transition), state.partition)
        decision.outputs.append(output)

    def _expire(self, state: State, decision: Decision, now: int) -> None:
        for key in state.rows.expired(now - self._state_ms, EXPIRED_PER_TURN):
            row = state.rows.get(key)
            if row is not None and row.early:
                decision.count("never_introduced", len(row.early))
            if row is not None and row.number:  # nothing is awaited for it any more
                self._change(
                    row, state, decision, now, partial(cursors.ended, number=row.number, seq=row.seq, observed=False)
                )
            state.rows.delete(key)

    # --- cursors --------------------------------------------------------------------------------------------------------

    def _numbered(self, message: SequencedMessage, ref: DeliveryRef, state: State) -> int:
        """The number of a new delivery among those to its member; 0 for a signal, which nobody reads."""
        if message.kind in SIGNALS:
            return 0
        key = cursor_key(message.tenant_id, message.conversation_id, ref.recipient).encode()
        cursor = state.cursors.get(key) or MemberCursor(message.tenant_id, message.conversation_id, ref.recipient)
        sees_delivered, sees_read = self._observed.get(ref.channel, (False, False))
        cursor = cursors.made(cursor, message.seq, sees_delivered=sees_delivered, sees_read=sees_read)
        state.cursors.put(key, cursor)
        return cursor.made

    def _move(self, row: Timeline, transition: DeliveryState, state: State, decision: Decision) -> None:
        """What a transition of a delivery does to its member's cursor."""
        status, number = transition.status, row.number
        sees_delivered, _ = self._observed.get(row.channel, (False, False))
        failed, arrived = status in timelines.FAILURES, status in (Status.DELIVERED, Status.READ)
        if not number or not (failed or arrived or (status is Status.SENT and not sees_delivered)):
            return

        def moved(cursor: MemberCursor) -> MemberCursor:
            cursor = cursors.ended(cursor, number, row.seq, observed=failed or arrived, failed=failed)
            return cursors.read(cursor, number, row.seq) if status is Status.READ else cursor

        self._change(row, state, decision, transition.observed_at, moved)

    def _replied(self, message: SequencedMessage, state: State, decision: Decision, now: int) -> None:
        """Who writes has read what had arrived before."""
        key = cursor_key(message.tenant_id, message.conversation_id, message.sender).encode()
        cursor = state.cursors.get(key)
        if cursor is not None:
            moved = cursors.read(cursor, cursor.ended, cursor.ended_seq)._replace(sees_read=True)
            self._put(key, cursor, moved, decision, state=state, now=now)

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
            decision.outputs.append(Output("cursors", key, codec.encode(_published(cursor, state)), state.partition))
        state.cursors.put(key, cursor)


def _published(cursor: MemberCursor, state: State) -> Cursor:
    return Cursor(
        tenant_id=cursor.tenant_id,
        conversation_id=cursor.conversation_id,
        home_partition=state.partition,
        member=cursor.member,
        version=cursor.version,
        last_delivered_seq=cursor.last_delivered_seq,
        last_read_seq=cursor.last_read_seq,
        newest_seq=cursor.made_seq,
        changed_at=cursor.updated_at,
    )


def _foreign(record: Record, update: StatusUpdate, row: Timeline) -> Refusal:
    detail = f"a status update of tenant {update.tenant_id[:40]!r} names a delivery of tenant {row.tenant_id!r}"
    return Refusal(record, "wrong_tenant", detail)
