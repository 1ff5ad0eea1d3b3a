"""Stage send: outstanding deliveries become calls to providers, one at a time within a lane.

In: deliveries.<channel>, status-updates (evidence for calls whose answer never came), results of calls. Out: status-updates,
bindings, dead letters. Guaranteed: an intent is committed before its call starts; a call is repeated only when it surely was not
taken, or when its outcome is unknown and the channel's policy says so (counted, and told to track as RESENT).
"""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import structlog

from connectors.base import Connector
from connectors.webhook_limits import within_limits
from pipelines.engine.stage import (
    Call,
    Decision,
    Handed,
    Inputs,
    Output,
    Record,
    Refusal,
    Result,
    Room,
    Source,
    Stage,
    Tables,
)
from pipelines.send_state import SendLimits, State, backoff
from pipelines.typed_record import typed
from schemas import codec, limit_check, metrics
from schemas.keys import key_of, provider_message_key
from schemas.outcomes import Accepted, Outcome, Rejected, RetryLater, Scope, Unknown
from schemas.records import SIGNALS, Binding, Cause, Delivery, Status, StatusUpdate
from tables.fair_queue import Lane
from tables.lanes import lane_of
from tables.layout import Layout
from tables.outstanding import OUTSTANDING, Outstanding, Phase

log = structlog.get_logger(__name__)
DUE_PER_TURN = (
    2000  # deliveries whose time has come that a turn looks at; so a campaign for one moment makes no endless turn
)
UNCONFIGURED_MS = 60_000  # until rows of a channel that this worker does not have are looked at again
DUE_BYTES = 8 << 20  # of their rows, which are written again
LOOKS_PER_TURN = 2000  # lanes a turn looks at for calls to start
LONGEST_WAIT_SECONDS = 7 * 86_400.0  # whatever a provider wishes for


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a call needs: the delivery, the number of the attempt and the part to send."""

    delivery: Delivery
    number: int
    part: int = 0


class Send(Stage[State]):
    """`connectors` are the channels this stage sends on; a worker may have one or several."""

    name = "send"
    tables: ClassVar[tuple[Layout[Any], ...]] = (OUTSTANDING,)
    turn_records = 1000
    linger_ms = 10  # answers come one by one; together they cost one transaction

    def __init__(self, *, connectors: Mapping[str, Connector], limits: SendLimits) -> None:
        self._connectors = connectors
        self._limits = limits
        self.most_calls = limits.concurrency
        self._in_flight: set[str] = set()  # delivery ids whose call this worker is making
        self.sources = (Source("status-updates"), *(Source(f"deliveries.{channel}") for channel in sorted(connectors)))

    async def stop(self) -> None:
        for connector in self._connectors.values():
            await connector.close()

    def open(self, partition: int, tables: Tables) -> State:  # noqa: ARG002  # a partition's number means nothing here
        return State.opened(tables["outstanding"], self._limits, self._in_flight)

    def next_due(self, state: State) -> int | None:
        return state.next_due()

    def wants_calls(self, state: State, room: Room) -> bool:
        return state.wants_calls(room)

    def takes(self, topic: str, state: State) -> bool:
        return topic == "status-updates" or state.has_room()

    async def perform(self, call: Call) -> Outcome:
        attempt: Attempt = call.request
        channel = attempt.delivery.channel
        self._in_flight.add(call.key)
        began = time.perf_counter()
        outcome: Outcome
        try:
            outcome = await self._connectors[channel].send(attempt.delivery, attempt.number, attempt.part)
        except Exception as error:  # noqa: BLE001  # a connector promises not to raise; if it does, nobody knows what was sent
            log.error("connector raised", channel=channel, delivery_id=call.key, error=type(error).__name__)
            outcome = Unknown(f"the connector failed: {type(error).__name__}")
        finally:
            self._in_flight.discard(call.key)
        metrics.CALL_SECONDS.labels(channel, type(outcome).__name__).observe(time.perf_counter() - began)
        return outcome

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:
        decision = Decision()
        for result in inputs.results:
            self._take_result(result, state, decision, now)
        for record in inputs.records:
            try:
                if record.topic == "status-updates":
                    self._weigh(record, state, decision, now)
                else:
                    self._take(record, state, decision, now)
            except codec.CodecError as error:
                decision.refusals.append(Refusal(record, error.cause, str(error)))
        for delivery_id in state.interrupted:
            row = state.rows.get(delivery_id.encode())
            if row is not None and row.phase is Phase.CALLING:  # else its result came with this very turn
                self._unknown(row, Unknown("the worker ended before the answer was recorded"), state, decision, now)
        state.interrupted.clear()
        for delivery_id in state.take_due(now, DUE_PER_TURN, DUE_BYTES):
            self._due(delivery_id, state, decision, now)
        state.unblock(now)
        if not inputs.closing:
            state.admit(inputs.room)
            self._start_calls(state, decision, now)
        return decision

    # --- what comes in --------------------------------------------------------------------------------------------------

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
            why = ("schedule_full", _schedule_full(delivery.tenant_id, state))
            decision.outputs.append(_update(row, Status.FAILED, Cause.REJECTED, now, why))
            decision.refusals.append(Refusal(record, *why, delivery.tenant_id))
            return
        state.take(row)

    def _weigh(self, record: Record, state: State, decision: Decision, now: int) -> None:
        """A receipt for a delivery whose outcome we do not know is proof that the provider has it."""
        if not len(state.rows):
            return
        if not isinstance(record, Handed):
            named = codec.peek(record.value, StatusUpdate, "delivery_id")
            if named is not None and limit_check.allows("delivery_id", named) and named.encode() not in state.rows:
                return  # not decoded: nearly all are of deliveries that have ended, and track judges every one of them
        update = typed(record, StatusUpdate)
        row = state.rows.get(update.delivery_id.encode())
        if row is None or update.cause is not Cause.RECEIPT or not update.provider_message_id:
            return
        if update.tenant_id != row.delivery.tenant_id:
            return  # proves nothing here; track refuses it
        if row.part and update.attempt <= row.part_since:
            return  # a receipt of a part that was taken before; one without our tracker is of such a part always
        is_called = row.phase is Phase.CALLING and update.delivery_id not in state.interrupted
        if is_called or (row.attempt and row.delivery.channel not in self._connectors):
            proven = dataclasses.replace(row, evidence=row.evidence or update.provider_message_id)
            state.rows.put(update.delivery_id.encode(), proven)
        elif row.attempt:
            self._proven(row, update.provider_message_id, state, decision, now)

    def _take_result(self, result: Result, state: State, decision: Decision, now: int) -> None:
        row = state.rows.get(result.call.key.encode())
        if row is None or row.phase is not Phase.CALLING or row.attempt != result.call.request.number:
            return  # ended meanwhile, by evidence
        at = min(result.at, now) or now  # when the provider answered, not when a turn had time for it
        outcome = within_limits(result.value)
        if isinstance(outcome, Accepted):
            self._accepted(row, outcome.provider_ids, state, decision, at)
        elif row.evidence is not None:
            self._proven(row, row.evidence, state, decision, now)
        elif isinstance(outcome, RetryLater):
            self._retry_later(row, outcome, state, decision, now)
        elif isinstance(outcome, Rejected):
            decision.count("rejected")
            decision.outputs.append(_update(row, Status.FAILED, Cause.REJECTED, at, (outcome.code, outcome.reason)))
            state.end(row)
        else:
            self._unknown(row, outcome, state, decision, now)

    # --- outcomes -------------------------------------------------------------------------------------------------------

    def _accepted(
        self, row: Outstanding, provider_ids: tuple[str, ...], state: State, decision: Decision, now: int
    ) -> None:
        """The provider has the part; with the last one it has the delivery, before that the next one is sent."""
        delivery = row.delivery
        partial = row.part + 1 < self._connectors[delivery.channel].parts(delivery)
        decision.count("part_accepted" if partial else "accepted")
        first = provider_ids[0] if provider_ids else None  # a signal has none
        status = Status.PENDING if partial else Status.SENT
        decision.outputs.append(_update(row, status, Cause.ACCEPTED, now, provider_message_id=first))
        decision.outputs += [_binding(row, provider_id, now, partial=partial) for provider_id in provider_ids]
        if not partial:
            state.end(row)
            return
        following = dataclasses.replace(
            row, phase=Phase.WAITING, part=row.part + 1, part_since=row.attempt, failures=0, resends=0, not_before=0,
            evidence=None,
        )  # fmt: skip
        state.put(following)
        state.lanes.ready(lane_of(delivery))

    def _proven(self, row: Outstanding, provider_id: str, state: State, decision: Decision, now: int) -> None:
        """Some attempt reached the provider, whatever the latest one came to: another would be a duplicate."""
        decision.count("unknown_resolved")
        self._accepted(row, (provider_id,), state, decision, now)

    def _retry_later(self, row: Outstanding, outcome: RetryLater, state: State, decision: Decision, now: int) -> None:
        failures = row.failures + (not outcome.throttled)
        if failures >= self._limits.attempts:
            decision.count("exhausted")
            decision.outputs.append(_update(row, Status.FAILED, Cause.EXHAUSTED, now, (outcome.code, outcome.reason)))
            decision.refusals.append(_given_up(row, outcome))
            state.end(row)
            return
        wished = outcome.after_seconds
        wait = backoff(row, failures) if wished is None else int(min(max(wished, 0.0), LONGEST_WAIT_SECONDS) * 1000)
        decision.count("throttled" if outcome.throttled else "retry_later")
        decision.outputs.append(_update(row, Status.PENDING, Cause.RETRY_LATER, now, (outcome.code, outcome.reason)))
        if outcome.scope is not Scope.PAIR:
            state.block(row.delivery, now + wait)
        state.put(dataclasses.replace(row, phase=Phase.WAITING, failures=failures, not_before=now + wait))

    def _unknown(self, row: Outstanding, outcome: Unknown, state: State, decision: Decision, now: int) -> None:
        if row.evidence is not None and row.delivery.channel in self._connectors:
            self._proven(row, row.evidence, state, decision, now)
            return
        decision.count("unknown")
        connector = self._connectors.get(row.delivery.channel)  # none: a setting was taken away since
        policy = "hold" if connector is None else connector.capabilities.unknown_policy
        if row.delivery.kind in SIGNALS:
            policy = "resend"  # no evidence of a signal ever comes, and a second one hurts nobody
        if policy == "fail":
            decision.outputs.append(_update(row, Status.FAILED, Cause.UNKNOWN, now, (outcome.code, outcome.reason)))
            state.end(row)
            return
        decision.outputs.append(_update(row, Status.PENDING, Cause.UNKNOWN, now, (outcome.code, outcome.reason)))
        if policy == "hold":
            state.put(dataclasses.replace(row, phase=Phase.HELD, not_before=now + self._limits.hold_ms))
        else:
            self._resend(row, state, decision, now)

    def _resend(self, row: Outstanding, state: State, decision: Decision, now: int) -> None:
        if row.resends + 1 >= self._limits.attempts:
            given_up = RetryLater(reason="every attempt ended without an answer", code="unknown")
            decision.count("exhausted")
            decision.outputs.append(_update(row, Status.FAILED, Cause.EXHAUSTED, now, (given_up.code, given_up.reason)))
            decision.refusals.append(_given_up(row, given_up))
            state.end(row)
            return
        decision.count("resent")
        decision.outputs.append(_update(row, Status.PENDING, Cause.RESENT, now))
        wait = backoff(row, row.resends)
        state.put(dataclasses.replace(row, phase=Phase.WAITING, resends=row.resends + 1, not_before=now + wait))

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
            state.enter(row)
        else:
            state.remind(dataclasses.replace(row, not_before=0))
            state.lanes.ready(lane_of(row.delivery))

    def _start_calls(self, state: State, decision: Decision, now: int) -> None:
        for _ in range(LOOKS_PER_TURN):
            lane = state.next_lane()
            if lane is None:
                return
            self._start_head(lane, state, decision, now)

    def _start_head(self, lane: Lane, state: State, decision: Decision, now: int) -> None:
        delivery_id = state.lanes.head(lane)
        row = state.rows.get(delivery_id.encode()) if delivery_id else None
        if row is None or row.phase is not Phase.WAITING:
            return
        if _is_over(row.delivery, now):
            self._expire(row, state, decision, now)
        elif row.delivery.channel not in self._connectors:  # it waits for a worker that has the channel
            decision.count("not_configured")
            state.block(row.delivery, now + UNCONFIGURED_MS)
            state.lanes.ready(lane)
        elif row.not_before <= now and row.evidence is not None:
            self._proven(row, row.evidence, state, decision, now)
        elif row.not_before <= now and state.has_calls_left(row.delivery):
            intent = dataclasses.replace(row, phase=Phase.CALLING, attempt=row.attempt + 1, dispatched_at=now)
            shares = state.begin(intent)
            attempt = Attempt(row.delivery, intent.attempt, intent.part)
            decision.calls.append(Call(intent.delivery.delivery_id, attempt, shares=shares))

    def _expire(self, row: Outstanding, state: State, decision: Decision, now: int) -> None:
        decision.count("expired")
        why = ("expired", "it could not be sent in time")
        decision.outputs.append(_update(row, Status.EXPIRED, Cause.EXPIRED, now, why))
        state.end(row)


def _is_over(delivery: Delivery, now: int) -> bool:
    return delivery.expires_at is not None and delivery.expires_at <= now


def _schedule_full(tenant: str, state: State) -> str:
    whose = (
        f"{state.scheduled.rows(tenant)} of this tenant"
        if state.scheduled.is_share_full(tenant)
        else "too many of all tenants"
    )
    return (
        f"of this partition's deliveries {whose} wait for a later time, or have too many bytes: produce it again nearer to its time, "
        "or raise CHAT4ALL_SEND_SCHEDULED or CHAT4ALL_SEND_SCHEDULED_BYTES"
    )


def _update(
    row: Outstanding, status: Status, cause: Cause, now: int, why: tuple[str, str] | None = None, *,
    provider_message_id: str | None = None,
) -> Output:  # fmt: skip
    """What track is told about an attempt. The event id is made of the attempt, so that telling it again changes nothing."""
    delivery = row.delivery
    update = StatusUpdate(
        tenant_id=delivery.tenant_id,
        event_id=f"{delivery.delivery_id}:{row.attempt}:{cause.lower()}",
        delivery_id=delivery.delivery_id,
        conversation_id=delivery.conversation_id,
        home_partition=delivery.home_partition,
        status=status,
        cause=cause,
        occurred_at=now,
        observed_at=now,
        dispatched_at=row.dispatched_at,
        attempt=row.attempt,
        provider_message_id=provider_message_id,
        reason_code=why[0] if why else None,
        reason=why[1] if why else None,
    )
    return Output("status-updates", key_of(delivery), codec.encode(update), delivery.home_partition, content=update)


def _binding(row: Outstanding, provider_id: str, now: int, *, partial: bool) -> Output:
    delivery = row.delivery
    binding = Binding(
        tenant_id=delivery.tenant_id,
        channel=delivery.channel,
        account=delivery.account,
        provider_message_id=provider_id,
        delivery_id=delivery.delivery_id,
        conversation_id=delivery.conversation_id,
        home_partition=delivery.home_partition,
        bound_at=now,
        partial=partial,
    )
    key = provider_message_key(delivery.channel, delivery.account, provider_id).encode()
    return Output("bindings", key, codec.encode(binding), None)


def _given_up(row: Outstanding, outcome: RetryLater) -> Refusal:
    topic, offset, timestamp = row.source
    delivery = row.delivery
    record = Record(topic, delivery.home_partition, offset, timestamp, key_of(delivery), codec.encode(delivery), ())
    detail = f"given up after attempt {row.attempt}: {outcome.reason} ({outcome.code})"
    return Refusal(record, "attempts_exhausted", detail, delivery.tenant_id)
