"""Stage match: finds the delivery of each receipt and the conversation of what a person wrote, and notes who wants no messages.

In: receipts and bindings, keyed by the provider's message id, in any order; inbound messages, preferences, and bindings once more, keyed by
the person. Out: status-updates, conversation-inbound, windows and messages, each to a conversation's home partition; suppressions.
Guaranteed: every receipt ends as a status update or, if no binding arrives in time, as a dead letter that table `orphans` keeps too. A
receipt with a valid tracker needs no binding; the gateway turns most of these into status updates itself (receipts.py). Inbound messages
are the matter of match_threads.py, suppressions that of match_opt_out.py.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from pipelines import erasing
from pipelines.engine.stage import Decision, Inputs, Output, Record, Refusal, Source, Stage, Tables
from pipelines.match_opt_out import OptOut, OptOutTurn
from pipelines.match_orphans import Orphan, Orphans
from pipelines.match_threads import PersonThreads, ThreadLimits
from pipelines.receipts import RefusedReceipt, by_binding, by_tracker
from schemas import codec
from schemas.keys import key_of, person_key, provider_message_key
from schemas.message_times import DAY_MS, is_plausible
from schemas.opt_out_policies import policies_in
from schemas.records import Binding, InboundMessage, Preference, Receipt, StatusUpdate
from schemas.tracker import NO_KEYS, Keys
from tables.bindings import BINDINGS, MOST_WAITING, WAITING, BoundDelivery, WaitingReceipt
from tables.layout import Layout
from tables.orphans import ORPHANS
from tables.suppressed import SUPPRESSED, SuppressedAddress
from tables.table import Table
from tables.threads import ANSWERABLE, HELD_INBOUND, RECEIVED, THREADS
from tables.timers import Timers

PER_TURN = 2000
ORPHANS_PER_TURN = 32  # rows of up to 64 receipts each: at most about 16 MB of dead letters, and the same in rows
NO_BINDING = "no_binding"


@dataclass(slots=True)
class State:
    """One partition of match."""

    partition: int
    bindings: Table[BoundDelivery]
    waiting: Table[WaitingReceipt]
    waits: Timers  # keys of `waiting`
    orphans: Orphans
    threads: PersonThreads
    suppressed: Table[SuppressedAddress]


class _Turn(NamedTuple):
    """One decision while it is being made."""

    state: State
    decision: Decision
    now: int


class Match(Stage[State]):
    """A receipt waits `orphan_ms` for its binding, and is kept for `orphan_kept_ms` if none came; a binding is kept for `binding_ms`. A
    tracker is valid if one of `tracker_keys` signed it. Reads and writes the tables below. No method blocks or does I/O; all run on the
    worker's event loop."""

    name = "match"
    sources = (Source("bindings"), Source("receipts"), Source("inbound"), Source(erasing.TOPIC))
    tables: ClassVar[tuple[Layout[Any], ...]] = (
        BINDINGS,
        WAITING,
        ORPHANS,
        THREADS,
        ANSWERABLE,
        RECEIVED,
        HELD_INBOUND,
        SUPPRESSED,
    )
    linger_ms = 50  # status updates are not urgent: fewer, larger turns leave CPU time for route and send

    def __init__(
        self,
        *,
        partitions: int,
        binding_ms: int,
        orphan_ms: int,
        orphan_kept_ms: int = 7 * DAY_MS,
        threads: ThreadLimits | None = None,
        tracker_keys: Keys = NO_KEYS,
        opt_out: OptOut | None = None,
    ) -> None:
        self._partitions = partitions
        self._binding_ms = binding_ms
        self._orphan_ms = orphan_ms
        self._orphan_kept_ms = orphan_kept_ms
        self._thread_limits = threads or ThreadLimits()
        self._keys = tracker_keys
        self._opt_out = opt_out or OptOut(policies_in(""))

    def open(self, partition: int, tables: Tables) -> State:
        """Derives the queues of waiting messages and the ends of all waiting from the rows."""
        bindings, waiting = tables["bindings"], tables["waiting"]
        waits = Timers()
        for key, row in waiting.items():
            waits.set(key.decode(), row.since + self._orphan_ms)
        threads = PersonThreads(
            tables, self._thread_limits, self._opt_out, partitions=self._partitions, answer_ms=self._binding_ms
        )
        orphans = Orphans(tables["orphans"], self._orphan_kept_ms)
        return State(partition, bindings, waiting, waits, orphans, threads, tables["suppressed"])

    def next_due(self, state: State) -> int | None:
        oldest = state.bindings.oldest()
        dues = (
            None if oldest is None else oldest + self._binding_ms,
            state.waits.next_due(),
            state.orphans.next_due(),
            state.threads.next_due(),
            self._opt_out.next_due(state.suppressed),
        )
        return min((due for due in dues if due is not None), default=None)

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:
        """Stores bindings, turns receipts into status updates, finds the conversations of inbound messages, and ends what waited too long.

        Refuses: wrong_partition, wrong_tenant, too_many_waiting, orphan_receipt, and what cannot be decoded. Raises nothing on purpose."""
        turn = _Turn(state, Decision(), now)
        for record in inputs.records:
            if record.topic != "inbound":
                self._take(record, turn)
        state.threads.advance(turn.decision, now)
        for record in inputs.records:
            if record.topic == "inbound":  # after the bindings, so that a reply finds what it answers
                self._take(record, turn)
        self._expire(turn)
        return turn.decision

    def _take(self, record: Record, turn: _Turn) -> None:
        try:
            if record.topic == "bindings":
                self._bind(record, codec.decode(record.value, Binding), turn)
            elif record.topic == "receipts":
                self._match(record, codec.decode(record.value, Receipt), turn)
            elif record.topic == erasing.TOPIC:
                if (erasure := erasing.erasure_in(record, turn.decision)) is not None:
                    erasing.from_match(erasure, turn.state, turn.decision)
            else:
                self._take_inbound(record, turn)
        except codec.CodecError as error:
            turn.decision.refusals.append(Refusal(record, error.cause, str(error)))

    # --- inbound --------------------------------------------------------------------------------------------------------

    def _take_inbound(self, record: Record, turn: _Turn) -> None:
        try:
            message = codec.decode(record.value, InboundMessage)
        except codec.UnexpectedRecord as unexpected:
            try:
                preference = codec.decode(record.value, Preference)
            except codec.UnexpectedRecord:
                raise unexpected from None
            self._opt_out.take_preference(preference, _opt_out_turn(turn))
            return
        turn.state.threads.take(record, message, turn.decision, turn.now)

    # --- bindings -------------------------------------------------------------------------------------------------------

    def _bind(self, record: Record, binding: Binding, turn: _Turn) -> None:
        """Each binding comes twice: under the key of its receipts, and under that of its recipient, perhaps in another partition."""
        if not 0 <= binding.home_partition < self._partitions:
            detail = f"the binding names partition {binding.home_partition} of {self._partitions}"
            turn.decision.refusals.append(Refusal(record, "wrong_partition", detail, binding.tenant_id))
            return
        key = provider_message_key(binding.channel, binding.account, binding.provider_message_id).encode()
        if binding.address and record.key == person_key(binding.channel, binding.account, binding.address).encode():
            turn.state.threads.learn(binding, turn.decision, turn.now)
            if record.key != key:
                return
        bound = BoundDelivery(
            binding.tenant_id,
            binding.delivery_id,
            binding.conversation_id,
            binding.home_partition,
            binding.bound_at,
            binding.partial,
        )
        known = turn.state.bindings.get(key)
        if known is not None and known.delivery_id != bound.delivery_id:
            # a provider that started again without its ids, as simulators do: later receipts are about the newer delivery
            turn.decision.count("id_reused")
        turn.state.bindings.put(key, bound)
        self._match_waiting(key, bound, turn)

    def _match_waiting(self, key: bytes, bound: BoundDelivery, turn: _Turn) -> None:
        """Publishes the receipts that came before their binding: those given up already, and those that wait."""
        state = turn.state
        claimed = state.orphans.claim(key)
        waiting = state.waiting.get(key) or WaitingReceipt(0)
        waited = list(zip(waiting.places, waiting.receipts, strict=True))
        for (offset, timestamp, _), value in (*claimed, *waited):
            record = Record("receipts", state.partition, offset, timestamp, key, value, ())
            self._publish(record, codec.decode(value, Receipt), bound, turn)
        if claimed:
            turn.decision.count("matched_after_orphaned", len(claimed))
        if waited:
            turn.decision.count("matched_late", len(waited))
            state.waiting.delete(key)
            state.waits.cancel(key.decode())

    # --- receipts -------------------------------------------------------------------------------------------------------

    def _match(self, record: Record, receipt: Receipt, turn: _Turn) -> None:
        state, decision = turn.state, turn.decision
        if not is_plausible(receipt.provider_at, receipt.received_at):
            decision.count("implausible_time")
        update = by_tracker(receipt, self._partitions, self._keys)
        if isinstance(update, RefusedReceipt):
            self._refuse(record, receipt, update, turn)
            return
        if update is not None:
            decision.outputs.append(_output(update))
            decision.count("matched_by_tracker")
            return
        if receipt.callback_data:
            decision.count("tracker_not_believed")
        key = _key(receipt)
        found = state.bindings.get(key)
        if found is not None:
            decision.count("matched")
            self._publish(record, receipt, found, turn)
        elif state.orphans.holds(key, receipt.event_id):
            decision.count("repeated")
        else:
            self._keep_waiting(record, receipt, turn)

    def _publish(self, record: Record, receipt: Receipt, bound: BoundDelivery, turn: _Turn) -> None:
        """A receipt and its binding are both known: publishes the update, or refuses a receipt of another tenant."""
        update = by_binding(receipt, bound)
        if isinstance(update, RefusedReceipt):
            self._refuse(record, receipt, update, turn)
        else:
            turn.decision.outputs.append(_output(update))

    def _refuse(self, record: Record, receipt: Receipt, why: RefusedReceipt, turn: _Turn) -> None:
        turn.decision.refusals.append(Refusal(record, *why))
        orphan = Orphan(why.cause, (record.offset, record.timestamp, receipt.event_id), record.value or b"")
        turn.state.orphans.keep(_key(receipt), [orphan], turn.decision, turn.now)

    def _keep_waiting(self, record: Record, receipt: Receipt, turn: _Turn) -> None:
        state, decision, key = turn.state, turn.decision, _key(receipt)
        row = state.waiting.get(key) or WaitingReceipt(turn.now)
        if any(event_id == receipt.event_id for _, _, event_id in row.places):
            decision.count("repeated")
            return
        if len(row.receipts) >= MOST_WAITING:
            decision.count("too_many_waiting")
            detail = (
                f"{len(row.receipts)} receipts of one provider message wait already, and no binding names its delivery"
            )
            self._refuse(record, receipt, RefusedReceipt("too_many_waiting", detail, receipt.tenant_id), turn)
            return
        place = (record.offset, record.timestamp, receipt.event_id)
        state.waiting.put(key, WaitingReceipt(row.since, (*row.places, place), (*row.receipts, record.value or b"")))
        state.waits.set(key.decode(), row.since + self._orphan_ms)

    # --- time -----------------------------------------------------------------------------------------------------------

    def _expire(self, turn: _Turn) -> None:
        state, decision, now = turn
        for key in state.bindings.expired(now - self._binding_ms, PER_TURN):
            state.bindings.delete(key)
        state.threads.expire(now)
        state.orphans.expire(decision, now)
        self._opt_out.expire(_opt_out_turn(turn))
        for name in state.waits.take_due(now, ORPHANS_PER_TURN):
            waiting = state.waiting.get(name.encode())
            if waiting is not None:
                self._give_up(name, waiting, turn)

    def _give_up(self, name: str, waiting: WaitingReceipt, turn: _Turn) -> None:
        """No binding has come in time: the receipts become dead letters, and stay in table `orphans` for a while."""
        key = name.encode()
        detail = f"no binding named the delivery of provider message {name!r} within {self._orphan_ms // 1000} s"
        orphans = [Orphan(NO_BINDING, *each) for each in zip(waiting.places, waiting.receipts, strict=True)]
        for _, (offset, timestamp, _), value in orphans:
            record = Record("receipts", turn.state.partition, offset, timestamp, key, value, ())
            turn.decision.refusals.append(Refusal(record, "orphan_receipt", detail))
        turn.state.orphans.keep(key, orphans, turn.decision, turn.now)
        turn.state.waiting.delete(key)


def _opt_out_turn(turn: _Turn) -> OptOutTurn:
    return OptOutTurn(turn.state.suppressed, turn.decision, turn.now)


def _key(receipt: Receipt) -> bytes:
    return provider_message_key(receipt.channel, receipt.account, receipt.provider_message_id).encode()


def _output(update: StatusUpdate) -> Output:
    return Output("status-updates", key_of(update), codec.encode(update), update.home_partition, content=update)
