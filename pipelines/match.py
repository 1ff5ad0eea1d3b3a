"""Stage match: finds the delivery of each receipt.

In: receipts and bindings, both keyed by the provider's message id, in any order. Out: status-updates, to the conversation's home
partition. Guaranteed: every receipt ends as a status update or, if no binding arrives in time, as a dead letter. A receipt with a
valid tracker needs no binding; the gateway turns most of these into status updates itself (receipts.py).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from pipelines.engine.stage import Decision, Inputs, Output, Record, Refusal, Source, Stage, Tables
from pipelines.receipts import RefusedTracker, by_tracker, update_of
from schemas import codec
from schemas.keys import key_of, provider_message_key
from schemas.records import Binding, Receipt, StatusUpdate
from schemas.tracker import NO_KEYS, Keys
from tables.bindings import BINDINGS, MOST_WAITING, WAITING, BoundDelivery, WaitingReceipt
from tables.layout import Layout
from tables.table import Table
from tables.timers import Timers

PER_TURN = 2000
ORPHANS_PER_TURN = 64  # rows of up to 64 receipts each: at most about 32 MB of dead letters


@dataclass(slots=True)
class State:
    """One partition of match."""

    partition: int
    bindings: Table[BoundDelivery]
    waiting: Table[WaitingReceipt]
    orphans: Timers


class Match(Stage[State]):
    """A receipt waits `orphan_ms` for its binding; a binding is kept for `binding_ms`. A tracker is valid if one of `tracker_keys` signed
    it. Reads and writes tables `bindings` and `waiting`. No method blocks or does I/O; all run on the worker's event loop."""

    name = "match"
    sources = (Source("bindings"), Source("receipts"))
    tables: ClassVar[tuple[Layout[Any], ...]] = (BINDINGS, WAITING)
    linger_ms = 50  # status updates are not urgent: fewer, larger turns leave CPU time for route and send

    def __init__(self, *, partitions: int, binding_ms: int, orphan_ms: int, tracker_keys: Keys = NO_KEYS) -> None:
        self._partitions = partitions
        self._binding_ms = binding_ms
        self._orphan_ms = orphan_ms
        self._keys = tracker_keys

    def open(self, partition: int, tables: Tables) -> State:
        bindings, waiting = tables["bindings"], tables["waiting"]
        orphans = Timers()
        for key, row in waiting.items():
            orphans.set(key.decode(), row.since + self._orphan_ms)
        return State(partition, bindings, waiting, orphans)

    def next_due(self, state: State) -> int | None:
        oldest = state.bindings.oldest()
        dues = (None if oldest is None else oldest + self._binding_ms, state.orphans.next_due())
        return min((due for due in dues if due is not None), default=None)

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:
        """Stores bindings, turns receipts into status updates, and ends receipts that waited too long.

        Refuses: wrong_partition, wrong_tenant, too_many_waiting, orphan_receipt, and what cannot be decoded. Raises nothing on purpose."""
        decision = Decision()
        for record in inputs.records:
            try:
                if record.topic == "bindings":
                    self._bind(record, codec.decode(record.value, Binding), state, decision)
                else:
                    self._match(record, codec.decode(record.value, Receipt), state, decision, now)
            except codec.CodecError as error:
                decision.refusals.append(Refusal(record, error.cause, str(error)))
        self._expire(state, decision, now)
        return decision

    def _bind(self, record: Record, binding: Binding, state: State, decision: Decision) -> None:
        if not 0 <= binding.home_partition < self._partitions:
            detail = f"the binding names partition {binding.home_partition} of {self._partitions}"
            decision.refusals.append(Refusal(record, "wrong_partition", detail, binding.tenant_id))
            return
        key = provider_message_key(binding.channel, binding.account, binding.provider_message_id).encode()
        bound = BoundDelivery(
            binding.tenant_id,
            binding.delivery_id,
            binding.conversation_id,
            binding.home_partition,
            binding.bound_at,
            binding.partial,
        )
        known = state.bindings.get(key)
        if known is not None and known.delivery_id != bound.delivery_id:
            # a provider that started again without its ids, as simulators do: later receipts are about the newer delivery
            decision.count("id_reused")
        state.bindings.put(key, bound)
        waiting = state.waiting.get(key)
        if waiting is not None:
            for value in waiting.receipts:
                decision.outputs.append(_output(update_of(codec.decode(value, Receipt), bound)))
                decision.count("matched_late")
            state.waiting.delete(key)
            state.orphans.cancel(key.decode())

    def _match(self, record: Record, receipt: Receipt, state: State, decision: Decision, now: int) -> None:
        update = by_tracker(receipt, self._partitions, self._keys)
        if isinstance(update, RefusedTracker):
            decision.refusals.append(Refusal(record, *update))
            return
        if update is not None:
            decision.outputs.append(_output(update))
            decision.count("matched_by_tracker")
            return
        if receipt.callback_data:
            decision.count("tracker_not_believed")
        key = provider_message_key(receipt.channel, receipt.account, receipt.provider_message_id).encode()
        found = state.bindings.get(key)
        if found is not None:
            decision.outputs.append(_output(update_of(receipt, found)))
            decision.count("matched")
            return
        self._keep_waiting(record, receipt, state, decision, now)

    def _keep_waiting(self, record: Record, receipt: Receipt, state: State, decision: Decision, now: int) -> None:
        key = provider_message_key(receipt.channel, receipt.account, receipt.provider_message_id).encode()
        row = state.waiting.get(key) or WaitingReceipt(now)
        if any(event_id == receipt.event_id for _, _, event_id in row.places):
            decision.count("repeated")
            return
        if len(row.receipts) >= MOST_WAITING:
            decision.count("too_many_waiting")
            detail = (
                f"{len(row.receipts)} receipts of one provider message wait already, and no binding names its delivery"
            )
            decision.refusals.append(Refusal(record, "too_many_waiting", detail, receipt.tenant_id))
            return
        place = (record.offset, record.timestamp, receipt.event_id)
        state.waiting.put(key, WaitingReceipt(row.since, (*row.places, place), (*row.receipts, record.value or b"")))
        state.orphans.set(key.decode(), row.since + self._orphan_ms)

    def _expire(self, state: State, decision: Decision, now: int) -> None:
        for key in state.bindings.expired(now - self._binding_ms, PER_TURN):
            state.bindings.delete(key)
        for name in state.orphans.take_due(now, ORPHANS_PER_TURN):
            waiting = state.waiting.get(name.encode())
            if waiting is None:
                continue
            for (offset, timestamp, _), value in zip(waiting.places, waiting.receipts, strict=True):
                record = Record("receipts", state.partition, offset, timestamp, name.encode(), value, ())
                detail = (
                    f"no binding named the delivery of provider message {name!r} within {self._orphan_ms // 1000} s"
                )
                decision.refusals.append(Refusal(record, "orphan_receipt", detail))
            state.waiting.delete(name.encode())


def _output(update: StatusUpdate) -> Output:
    return Output("status-updates", key_of(update), codec.encode(update), update.home_partition, content=update)
