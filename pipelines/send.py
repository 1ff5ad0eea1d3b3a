"""Stage send: turns outstanding deliveries into calls to providers, one at a time within a lane.

In: deliveries.<channel>, status-updates (evidence for calls whose answer never came), windows, results of calls, a mirror of suppressions.
Out: status-updates, bindings, preferences, dead letters. Guaranteed: the intent of a call is committed before the call starts. A call is
repeated only if the provider surely did not take it, or if its outcome is unknown and the channel's policy says so (counted, and reported
to track as RESENT). No call starts while the mirror has a suppression of the person, except for the rest of a delivery that was begun.
"""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import structlog

from connectors.base import Connector
from connectors.webhook_limits import within_limits
from pipelines import erasing
from pipelines.engine.stage import (
    Call,
    Decision,
    Handed,
    Inputs,
    Record,
    Refusal,
    Result,
    Room,
    Source,
    Stage,
    Tables,
    View,
)
from pipelines.send_outputs import attempt_update, bindings_of, given_up, preference_of, schedule_full
from pipelines.send_state import SendLimits, State, backoff
from pipelines.send_windows import KnownWindows
from pipelines.suppressions import SUPPRESSIONS, Suppressed, SuppressionRules
from pipelines.typed_record import typed
from schemas import codec, limit_check, metrics
from schemas.accounts import NONE_LISTED, Accounts
from schemas.outcomes import Accepted, Outcome, Rejected, RetryLater, Scope, Unknown
from schemas.records import SIGNALS, Cause, Delivery, Status, StatusUpdate, Window
from tables.fair_queue import Lane
from tables.lanes import lane_of
from tables.layout import Layout
from tables.outstanding import OUTSTANDING, Outstanding, Phase
from tables.windows import WINDOWS

log = structlog.get_logger(__name__)
DUE_PER_TURN = 2000  # due deliveries per turn, so that a campaign for one moment does not make an endless turn
DUE_BYTES = 8 << 20  # of their rows, which are written again
UNCONFIGURED_MS = 60_000  # until the next look at rows of a channel that this worker does not have
LOOKS_PER_TURN = 2000  # lanes that a turn checks for calls to start
LONGEST_WAIT_SECONDS = 7 * 86_400.0  # a provider's longer retry-after is shortened to this


@dataclass(frozen=True, slots=True)
class Attempt:
    """The request of a call: the delivery, the number of the attempt (from 1) and the part to send (from 0)."""

    delivery: Delivery
    number: int
    part: int = 0


class Send(Stage[State]):
    """`connectors` are the channels that this stage sends on, by name; `accounts` maps accounts to tenants. All methods run on the worker's
    event loop; none blocks.

    At a rebalance the engine waits a bounded time for calls in flight. The next owner of the partition treats a call without a committed
    result as an unknown outcome."""

    name = "send"
    tables: ClassVar[tuple[Layout[Any], ...]] = (OUTSTANDING, WINDOWS)
    mirrored = (SUPPRESSIONS,)
    turn_records = 1000
    linger_ms = 10  # answers arrive one by one; a turn puts several into one transaction

    def __init__(
        self, *, connectors: Mapping[str, Connector], limits: SendLimits, accounts: Accounts = NONE_LISTED
    ) -> None:
        self._connectors = connectors
        own_tenants = {name for name, each in connectors.items() if each.capabilities.own_tenants}
        self._rules = SuppressionRules(accounts, own_tenants, limits.not_receiving_ms)
        self._limits = limits
        self.most_calls = limits.concurrency
        self._in_flight: set[str] = set()  # delivery ids with a call of this worker in flight
        deliveries = (f"deliveries.{channel}" for channel in sorted(connectors))
        self.sources = tuple(map(Source, ("status-updates", "windows", erasing.TOPIC, *deliveries)))

    async def stop(self) -> None:
        for connector in self._connectors.values():
            await connector.close()

    def open(self, partition: int, tables: Tables) -> State:  # noqa: ARG002  # the partition's number is not needed
        """Derives lanes, timers and quotas from table `outstanding`, and finds calls whose result was lost."""
        return State.opened(tables["outstanding"], self._limits, self._in_flight, KnownWindows(tables["windows"]))

    def next_due(self, state: State) -> int | None:
        return state.next_due()

    def wants_calls(self, state: State, room: Room) -> bool:
        """Whether the head of a lane could be called within `room`."""
        return state.wants_calls(room)

    def takes(self, topic: str, state: State) -> bool:
        """False for deliveries while the partition, or any tenant's share of it, is full; they wait in Kafka."""
        return not topic.startswith("deliveries.") or state.has_room()

    async def perform(self, call: Call) -> Outcome:
        """Makes a call; returns its outcome. Does not raise: an exception of the connector becomes Unknown."""
        attempt: Attempt = call.request
        channel = attempt.delivery.channel
        self._in_flight.add(call.key)
        began = time.perf_counter()
        try:
            outcome: Outcome = await self._connectors[channel].send(attempt.delivery, attempt.number, attempt.part)
        except Exception as error:  # noqa: BLE001  # connectors must not raise; if one does, it is unknown what was sent
            log.error("connector raised", channel=channel, delivery_id=call.key, error=type(error).__name__)
            outcome = Unknown(f"the connector failed: {type(error).__name__}")
        finally:
            self._in_flight.discard(call.key)
        metrics.CALL_SECONDS.labels(channel, type(outcome).__name__).observe(time.perf_counter() - began)
        return outcome

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:
        """Takes results, records and due timers, then starts calls unless `inputs.closing`.

        Reads and writes tables `outstanding` and `windows`. Refuses: wrong_partition, unknown_channel, schedule_full, attempts_exhausted,
        and what cannot be decoded. Raises nothing on purpose."""
        decision = Decision()
        state.lanes.look(now)
        for result in inputs.results:
            self._take_result(result, state, decision, now)
        for record in inputs.records:
            try:
                if record.topic == "status-updates":
                    self._take_update(record, state, decision, now)
                elif record.topic == "windows":
                    self._take_window(record, state, decision, now)
                elif record.topic == erasing.TOPIC:
                    erasing.take_in_send(record, state, decision, now)
                else:
                    self._take(record, state, decision, now)
            except codec.CodecError as error:
                decision.refusals.append(Refusal(record, error.cause, str(error)))
        for delivery_id in state.interrupted:
            row = state.rows.get(delivery_id.encode())
            if row is not None and row.phase is Phase.CALLING:  # else its result arrived in this turn
                self._unknown(row, Unknown("the worker ended before the answer was recorded"), state, decision, now)
        state.interrupted.clear()
        for delivery_id in state.take_due(now, DUE_PER_TURN, DUE_BYTES):
            self._due(delivery_id, state, decision, now)
        state.unblock(now)
        state.windows.expire(now)
        if not inputs.closing:
            state.admit(inputs.room)
            self._start_calls(state, inputs.views[SUPPRESSIONS.topic], decision, now)
        return decision

    # --- records and results ------------------------------------------------------------------------------------------------

    def _take(self, record: Record, state: State, decision: Decision, now: int) -> None:
        delivery = typed(record, Delivery)
        if delivery.home_partition != record.partition:
            detail = f"the delivery's home is partition {delivery.home_partition}: produce it there, as route does"
            decision.refusals.append(Refusal(record, "wrong_partition", detail, delivery.tenant_id))
            return
        if delivery.channel not in self._connectors:
            known = ", ".join(sorted(self._connectors))
            detail = f"channel {delivery.channel[:40]!r} is not configured here: use one of {known}"
            decision.refusals.append(Refusal(record, "unknown_channel", detail, delivery.tenant_id))
            return
        key = delivery.delivery_id.encode()
        if key in state.rows:
            return
        later = delivery.not_before if delivery.not_before and delivery.not_before > now else 0
        source = (record.topic, record.offset, record.timestamp)
        row = Outstanding(delivery, source, not_before=later, size=len(record.value or b""))
        if row.is_scheduled and not state.may_schedule(delivery.tenant_id):
            decision.count("schedule_full")
            why = ("schedule_full", schedule_full(delivery.tenant_id, state))
            decision.outputs.append(attempt_update(row, Status.FAILED, Cause.REJECTED, now, why))
            decision.refusals.append(Refusal(record, *why, delivery.tenant_id))
            return
        state.take(row, now)

    def _take_update(self, record: Record, state: State, decision: Decision, now: int) -> None:
        """A receipt proves that the provider has the delivery; it resolves an unknown outcome."""
        if not len(state.rows):
            return
        if not isinstance(record, Handed):
            named = codec.peek(record.value, StatusUpdate, "delivery_id")
            if named is not None and limit_check.allows("delivery_id", named) and named.encode() not in state.rows:
                return  # not decoded: nearly all are about ended deliveries, and track checks every update
        update = typed(record, StatusUpdate)
        row = state.rows.get(update.delivery_id.encode())
        if row is None or update.cause is not Cause.RECEIPT or not update.provider_message_id:
            return
        if update.tenant_id != row.delivery.tenant_id:
            return  # proves nothing here; track refuses it
        if row.part and update.attempt <= row.part_since:
            return  # of a part that was accepted before; a receipt without a tracker always counts as such
        is_called = row.phase is Phase.CALLING and update.delivery_id not in state.interrupted
        if is_called or (row.attempt and row.delivery.channel not in self._connectors):
            proven = dataclasses.replace(row, evidence=row.evidence or update.provider_message_id)
            state.rows.put(update.delivery_id.encode(), proven)
        elif row.attempt:
            self._proven(row, update.provider_message_id, state, decision, now)

    def _take_window(self, record: Record, state: State, decision: Decision, now: int) -> None:
        window = typed(record, Window)
        if window.home_partition != record.partition:
            detail = f"the window's home is partition {window.home_partition}: produce it there, as match does"
            decision.refusals.append(Refusal(record, "wrong_partition", detail, window.tenant_id))
        elif state.windows.learn(window, now):
            decision.count("window_learned")

    def _take_result(self, result: Result, state: State, decision: Decision, now: int) -> None:
        row = state.rows.get(result.call.key.encode())
        if row is None or row.phase is not Phase.CALLING or row.attempt != result.call.request.number:
            return  # evidence ended it meanwhile
        at = min(result.at, now) or now  # when the provider answered, not when the turn began
        outcome = within_limits(result.value)
        if isinstance(outcome, Accepted):
            self._accepted(row, outcome.provider_ids, state, decision, at)
        elif row.evidence is not None:
            self._proven(row, row.evidence, state, decision, now)
        elif isinstance(outcome, RetryLater):
            self._retry_later(row, outcome, state, decision, now)
        elif isinstance(outcome, Rejected):
            decision.count("rejected")
            decision.outputs.append(
                attempt_update(row, Status.FAILED, Cause.REJECTED, at, (outcome.code, outcome.reason))
            )
            if outcome.suppresses is not None and row.delivery.channel in self._connectors:
                decision.outputs.append(preference_of(row, self._rules.owner(row.delivery), outcome.suppresses, at))
            state.end(row, at)
        else:
            self._unknown(row, outcome, state, decision, now)

    # --- outcomes -------------------------------------------------------------------------------------------------------

    def _accepted(
        self, row: Outstanding, provider_ids: tuple[str, ...], state: State, decision: Decision, now: int
    ) -> None:
        """The provider has accepted a part. The last part ends the delivery; after any other, the next part is sent."""
        delivery = row.delivery
        partial = row.part + 1 < self._connectors[delivery.channel].parts(delivery)
        decision.count("part_accepted" if partial else "accepted")
        first = provider_ids[0] if provider_ids else None  # a signal has no id
        status = Status.PENDING if partial else Status.SENT
        decision.outputs.append(attempt_update(row, status, Cause.ACCEPTED, now, provider_message_id=first))
        for provider_id in provider_ids:
            decision.outputs += bindings_of(row, provider_id, now, partial=partial)
        if not partial:
            state.end(row, now)
            return
        following = dataclasses.replace(
            row,
            phase=Phase.WAITING,
            part=row.part + 1,
            part_since=row.attempt,
            failures=0,
            resends=0,
            not_before=0,
            evidence=None,
        )
        state.put(following)
        state.lanes.ready(lane_of(delivery))

    def _proven(self, row: Outstanding, provider_id: str, state: State, decision: Decision, now: int) -> None:
        """Some attempt reached the provider, whatever the outcome of the latest one: another attempt would be a duplicate."""
        decision.count("unknown_resolved")
        self._accepted(row, (provider_id,), state, decision, now)

    def _retry_later(self, row: Outstanding, outcome: RetryLater, state: State, decision: Decision, now: int) -> None:
        failures = row.failures + (not outcome.throttled)
        if failures >= self._limits.attempts:
            self._exhausted(row, outcome, state, decision, now)
            return
        wished = outcome.after_seconds
        wait = backoff(row, failures) if wished is None else int(min(max(wished, 0.0), LONGEST_WAIT_SECONDS) * 1000)
        decision.count("throttled" if outcome.throttled else "retry_later")
        if outcome.scope is not Scope.PAIR:
            state.block(row.delivery, now + wait)
        retry_at, why = state.free_at(row.delivery, now + wait), (outcome.code, outcome.reason)
        decision.outputs.append(
            attempt_update(
                row, Status.PENDING, Cause.RETRY_LATER, now, why, throttled=outcome.throttled, retry_at=retry_at
            )
        )
        state.put(dataclasses.replace(row, phase=Phase.WAITING, failures=failures, not_before=now + wait))

    def _exhausted(self, row: Outstanding, outcome: RetryLater, state: State, decision: Decision, now: int) -> None:
        decision.count("exhausted")
        why, throttled = (outcome.code, outcome.reason), outcome.throttled
        decision.outputs.append(attempt_update(row, Status.FAILED, Cause.EXHAUSTED, now, why, throttled=throttled))
        decision.refusals.append(given_up(row, outcome))
        state.end(row, now)

    def _unknown(self, row: Outstanding, outcome: Unknown, state: State, decision: Decision, now: int) -> None:
        if row.evidence is not None and row.delivery.channel in self._connectors:
            self._proven(row, row.evidence, state, decision, now)
            return
        decision.count("unknown")
        connector = self._connectors.get(row.delivery.channel)  # None: the channel was removed from the settings
        policy = "hold" if connector is None else connector.capabilities.unknown_policy
        if row.delivery.kind in SIGNALS:
            policy = "resend"  # there is never evidence of a signal, and a repeated one does no harm
        status = Status.FAILED if policy == "fail" else Status.PENDING
        held = dataclasses.replace(row, phase=Phase.HELD, not_before=now + self._limits.hold_ms)
        # a resend reports its own time, with RESENT
        is_tried_again = policy == "hold" and connector is not None and not self._is_last(row)
        retry_at = held.not_before if is_tried_again else None
        why = (outcome.code, outcome.reason)
        decision.outputs.append(attempt_update(row, status, Cause.UNKNOWN, now, why, retry_at=retry_at))
        if policy == "fail":
            state.end(row, now)
        elif policy == "hold":
            state.put(held)
        else:
            self._resend(row, state, decision, now)

    def _is_last(self, row: Outstanding) -> bool:
        """Whether an attempt with an unknown outcome is not repeated any more."""
        return row.resends + 1 >= self._limits.attempts

    def _resend(self, row: Outstanding, state: State, decision: Decision, now: int) -> None:
        if self._is_last(row):
            exhausted = RetryLater(reason="every attempt ended without an answer", code="unknown")
            self._exhausted(row, exhausted, state, decision, now)
            return
        decision.count("resent")
        at = now + backoff(row, row.resends)
        retry_at = state.free_at(row.delivery, at)
        decision.outputs.append(attempt_update(row, Status.PENDING, Cause.RESENT, now, retry_at=retry_at))
        state.put(dataclasses.replace(row, phase=Phase.WAITING, resends=row.resends + 1, not_before=at))

    # --- lanes ----------------------------------------------------------------------------------------------------------

    def _due(self, delivery_id: str, state: State, decision: Decision, now: int) -> None:
        row = state.rows.get(delivery_id.encode())
        if row is None:
            return
        if row.phase is Phase.HELD and row.delivery.channel not in self._connectors:
            state.put(dataclasses.replace(row, not_before=now + UNCONFIGURED_MS))
        elif row.phase is Phase.HELD and row.evidence is not None:
            self._proven(row, row.evidence, state, decision, now)
        elif row.phase is Phase.HELD:
            self._resend(row, state, decision, now)
        elif _is_over(row.delivery, now):
            self._expire(row, state, decision, now)
        elif row.is_scheduled:
            state.enter(row, now)
        else:
            state.remind(dataclasses.replace(row, not_before=0))
            state.lanes.ready(lane_of(row.delivery))

    def _start_calls(self, state: State, suppressions: View[Suppressed], decision: Decision, now: int) -> None:
        for _ in range(LOOKS_PER_TURN):
            lane = state.next_lane()
            if lane is None:
                return
            self._start_head(lane, state, suppressions, decision, now)

    def _start_head(
        self, lane: Lane, state: State, suppressions: View[Suppressed], decision: Decision, now: int
    ) -> None:
        delivery_id = state.lanes.head(lane)
        row = state.rows.get(delivery_id.encode()) if delivery_id else None
        if row is None or row.phase is not Phase.WAITING:
            return
        if _is_over(row.delivery, now):
            self._expire(row, state, decision, now)
        elif row.delivery.channel not in self._connectors:  # waits for a worker with the channel
            decision.count("not_configured")
            state.block(row.delivery, now + UNCONFIGURED_MS)
            state.lanes.ready(lane)
        elif row.not_before <= now and row.evidence is not None:
            self._proven(row, row.evidence, state, decision, now)
        elif row.not_before <= now and (why := self._rules.forbid(row, suppressions, now)) is not None:
            decision.count("suppressed")
            ready, reason = state.seen_ready(row, now), ("suppressed", why.sentence)
            decision.outputs.append(attempt_update(ready, Status.SUPPRESSED, Cause.REJECTED, now, reason))
            state.end(row, now)
        elif row.not_before <= now and state.has_calls_left(row.delivery):
            intent, shares = state.begin(row, now)
            attempt = Attempt(row.delivery, intent.attempt, intent.part)
            decision.calls.append(Call(intent.delivery.delivery_id, attempt, shares=shares))

    def _expire(self, row: Outstanding, state: State, decision: Decision, now: int) -> None:
        decision.count("expired")
        why = ("expired", "it could not be sent in time")
        decision.outputs.append(attempt_update(state.seen_ready(row, now), Status.EXPIRED, Cause.EXPIRED, now, why))
        state.end(row, now)


def _is_over(delivery: Delivery, now: int) -> bool:
    return delivery.expires_at is not None and delivery.expires_at <= now
