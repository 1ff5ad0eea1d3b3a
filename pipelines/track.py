"""Stage track: keeps the timeline of each delivery and publishes every transition.

In: conversation-log (which deliveries exist), status-updates (what happened to them) and cursor-reports (what clients say of many), in any
order between the three. Out: delivery-states and cursors, to the home partition. Guaranteed: neither a status nor a cursor goes backwards;
the same updates, in any order and repeated any number of times, end in the same timeline; the versions of a delivery are 1, 2, 3 and so on.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from connectors.base import Observed
from pipelines.engine.stage import Decision, Inputs, Output, Record, Refusal, Source, Stage, Tables
from pipelines.track_covers import LaneOfMember, covered, lane_of, rest, update_of
from pipelines.track_cursors import CursorUpdates
from pipelines.track_objective import is_late
from pipelines.track_state import State, stalled_row, stalled_update
from pipelines.typed_record import typed
from schemas import codec
from schemas.keys import key_of
from schemas.records import CursorReport, DeliveryState, Direction, SequencedMessage, Status, StatusUpdate
from tables import timelines
from tables.cursors import CURSORS
from tables.layout import Layout
from tables.member_addresses import MEMBER_ADDRESSES
from tables.messages import MESSAGE_STATES, MESSAGES
from tables.stalled import AWAITING, STALLED
from tables.timeline_layout import TIMELINES
from tables.timelines import Timeline, Transition

EXPIRED_PER_TURN = 2000
COVERED_PER_TURN = (
    4096  # deliveries that the receipts of one turn cover, about; what is left waits in Kafka for the next turns
)


class Track(Stage[State]):
    """A delivery is kept in table `timelines` for `state_ms` after its last update. `observed` has for each channel what it reports after
    SENT; `stalled_ms` has for each channel how long a delivery may stay SENT before it is labelled as stalled, in milliseconds. No method
    blocks or does I/O; all run on the worker's event loop."""

    name = "track"
    sources = (Source("conversation-log"), Source("status-updates"), Source("cursor-reports"))
    tables: ClassVar[tuple[Layout[Any], ...]] = (
        TIMELINES,
        CURSORS,
        MEMBER_ADDRESSES,
        MESSAGES,
        MESSAGE_STATES,
        AWAITING,
        STALLED,
    )
    linger_ms = 50  # status updates are not urgent: fewer, larger turns leave CPU time for route and send

    def __init__(
        self, *, state_ms: int, observed: Mapping[str, Observed], stalled_ms: Mapping[str, int] | None = None
    ) -> None:
        self._state_ms = state_ms
        self._observed = observed
        self._stalled_ms = stalled_ms or {}
        self._cursors = CursorUpdates(observed)

    def open(self, partition: int, tables: Tables) -> State:
        return State.opened(partition, tables)

    def next_due(self, state: State) -> int | None:
        return state.next_due(self._state_ms)

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:
        """Introduces deliveries, applies updates and reports, labels what is stalled, and forgets deliveries without an update for
        `state_ms`. Reads and writes all tables of the stage.

        Refuses: wrong_tenant, wrong_partition, too_many_waiting, and what cannot be decoded. Raises nothing on purpose."""
        decision = Decision()
        for record in inputs.records:
            try:
                if record.topic == "conversation-log":
                    self._introduce(typed(record, SequencedMessage), state, decision, now)
                elif record.topic == "cursor-reports":
                    self._take_report(record, codec.decode(record.value, CursorReport), state, decision)
                else:
                    self._take(record, typed(record, StatusUpdate), state, decision)
            except codec.CodecError as error:
                decision.refusals.append(Refusal(record, error.cause, str(error)))
        self._label(state, decision, now)
        self._expire(state, decision, now)
        return decision

    def _introduce(self, message: SequencedMessage, state: State, decision: Decision, now: int) -> None:
        state.log(message, now)
        if message.direction is Direction.INBOUND:
            self._cursors.reply(message, state, decision, now)
        for ref in message.deliveries:
            key = ref.delivery_id.encode()
            row = state.rows.get(key)
            if row is not None and row.known:
                continue
            early = [] if row is None else list(zip(row.early, row.places, strict=True))
            row, published = timelines.introduce(message, ref, state.partition, now)
            row = row._replace(number=self._cursors.number(message, ref, state, decision, now))
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
        moved = timelines.apply(row, update)
        if moved.published is None:
            decision.count("repeated")
            return row
        if timelines.is_time_corrected(row, update):
            decision.count("time_corrected")
        self._put(key, moved, state, decision)
        sees = self._observed.get(row.channel)
        if update.status is Status.READ and sees is not None and sees.covers and not update.inferred:
            self._cover(lane_of(row), row.seq - 1, update, state, decision)
        return moved.row

    def _put(self, key: bytes, moved: Transition, state: State, decision: Decision) -> None:
        """Writes a delivery's row, and publishes its transition with all that follows from it."""
        state.rows.put(key, moved.row)
        transition = moved.published
        if transition is None:
            return
        if transition.status is not transition.previous_status:
            decision.count(transition.status.lower())
        late = is_late(transition)
        if late is not None:
            decision.count("sent_late" if late else "sent_in_time")
        if transition.anomaly is not None:
            decision.count("anomaly")
        self._publish(transition, state, decision)
        state.roll_up(transition)
        state.await_more(key, transition, self._stalled_ms, decision)
        self._cursors.move(moved.row, transition, state, decision)

    def _publish(self, transition: DeliveryState, state: State, decision: Decision) -> None:
        output = Output("delivery-states", key_of(transition), codec.encode(transition), state.partition)
        decision.outputs.append(output)

    # --- receipts for many deliveries -------------------------------------------------------------------------------------

    def _take_report(self, record: Record, report: CursorReport, state: State, decision: Decision) -> None:
        """Applies what a client says of a person's deliveries. A sequence beyond the newest one to the person counts as the newest."""
        if report.home_partition != state.partition:
            detail = (
                f"the report names partition {report.home_partition}: produce it to the conversation's home partition"
            )
            decision.refusals.append(Refusal(record, "wrong_partition", detail, report.tenant_id))
            return
        of = (report.tenant_id, report.conversation_id)
        found = self._cursors.at_address(*of, report.channel, report.address, state)
        if found is None:
            decision.count("report_unknown")
            return
        _, cursor = found
        lane = LaneOfMember(*of, cursor.member, report.channel, report.account, report.address)
        for status, up_to in ((Status.READ, report.read_up_to), (Status.DELIVERED, report.delivered_up_to)):
            if up_to is None:
                continue
            if up_to > cursor.made_seq:
                decision.count("report_clamped")
            newest = min(up_to, cursor.made_seq)
            if not self._cover(lane, newest, update_of(report, status), state, decision):
                known = cursor.read_seq if status is Status.READ else cursor.ended_seq
                decision.count("report_backwards" if newest < known else "report_repeated")

    def _cover(self, lane: LaneOfMember, newest: int, update: StatusUpdate, state: State, decision: Decision) -> bool:
        """Applies a receipt to the deliveries of the lane up to the sequence `newest`; returns whether that changed any."""
        changed = False
        steps = covered(lane, newest, update, state)
        if newest > 0 and decision.counts.get("covered", 0) >= COVERED_PER_TURN:
            steps = iter((rest(lane, newest, update, state),))
        for each in steps:
            if isinstance(each, Output):
                decision.outputs.append(each)
                decision.count("cover_continued")
            else:
                self._put(each.key, each.transition, state, decision)
                decision.count("covered")
            changed = True
        return changed

    # --- time -------------------------------------------------------------------------------------------------------------

    def _label(self, state: State, decision: Decision, now: int) -> None:
        """Labels deliveries that are SENT for longer than their channel's time."""
        for key in state.awaiting.expired(now, EXPIRED_PER_TURN):
            awaited, row = state.awaiting.get(key), state.rows.get(key)
            state.awaiting.delete(key)
            if awaited is None or row is None or timelines.status(row) is not Status.SENT:
                continue
            update = stalled_update(key.decode(), row, awaited.due_at, partition=state.partition, now=now)
            state.stalled.put(key, stalled_row(row, now))
            decision.count("stalled")
            self._put(key, timelines.stall(row, update), state, decision)

    def _expire(self, state: State, decision: Decision, now: int) -> None:
        until = now - self._state_ms
        for key in state.rows.expired(until, EXPIRED_PER_TURN):
            row = state.rows.get(key)
            if row is not None and row.early:
                decision.count("never_introduced", len(row.early))
            if row is not None:
                self._cursors.forget(row, state, decision, now)
            state.forget(key)
        state.forget_messages(until, EXPIRED_PER_TURN)


def _foreign(record: Record, update: StatusUpdate, row: Timeline) -> Refusal:
    detail = f"a status update of tenant {update.tenant_id[:40]!r} names a delivery of tenant {row.tenant_id!r}"
    return Refusal(record, "wrong_tenant", detail)
