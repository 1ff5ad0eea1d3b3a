"""Stage track: keeps the timeline of each delivery and publishes every transition.

In: conversation-log (which deliveries exist) and status-updates (what happened to them), in any order between the two. Out:
delivery-states, to the home partition. Guaranteed: a status never goes backwards; the same updates, in any order and repeated any
number of times, end in the same timeline; the versions of a delivery are 1, 2, 3 and so on.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from pipelines.engine.stage import Decision, Inputs, Output, Record, Refusal, Source, Stage, Tables
from pipelines.typed_record import typed
from schemas import codec
from schemas.keys import key_of
from schemas.records import DeliveryState, SequencedMessage, StatusUpdate
from tables import timelines
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


class Track(Stage[State]):
    """A delivery is kept in table `timelines` for `state_ms` after its last update. No method blocks or does I/O; all run on the worker's
    event loop."""

    name = "track"
    sources = (Source("conversation-log"), Source("status-updates"))
    tables: ClassVar[tuple[Layout[Any], ...]] = (TIMELINES,)
    linger_ms = 50  # status updates are not urgent: fewer, larger turns leave CPU time for route and send

    def __init__(self, *, state_ms: int) -> None:
        self._state_ms = state_ms

    def open(self, partition: int, tables: Tables) -> State:
        rows = tables["timelines"]
        return State(partition, rows)

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
        for ref in message.deliveries:
            key = ref.delivery_id.encode()
            row = state.rows.get(key)
            if row is not None and row.known:
                continue
            early = [] if row is None else list(zip(row.early, row.places, strict=True))
            row, published = timelines.introduce(message, ref, state.partition, now)
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
        return row

    def _publish(self, transition: DeliveryState, state: State, decision: Decision) -> None:
        output = Output("delivery-states", key_of(transition), codec.encode(transition), state.partition)
        decision.outputs.append(output)

    def _expire(self, state: State, decision: Decision, now: int) -> None:
        for key in state.rows.expired(now - self._state_ms, EXPIRED_PER_TURN):
            row = state.rows.get(key)
            if row is not None and row.early:
                decision.count("never_introduced", len(row.early))
            state.rows.delete(key)


def _foreign(record: Record, update: StatusUpdate, row: Timeline) -> Refusal:
    detail = f"a status update of tenant {update.tenant_id[:40]!r} names a delivery of tenant {row.tenant_id!r}"
    return Refusal(record, "wrong_tenant", detail)
