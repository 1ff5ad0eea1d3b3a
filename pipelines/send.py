"""Stage send: outstanding deliveries become calls to providers, one at a time within a lane.

In: deliveries.<channel>, status-updates (evidence for calls whose answer never came), results of calls. Out: status-updates,
bindings, dead letters. Guaranteed: an intent is committed before its call starts; a call is repeated only when it surely was not
taken, or when its outcome is unknown and the channel's policy says so (counted, and told to track as RESENT).
"""

import dataclasses
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import structlog

from connectors.base import Connector
from connectors.bounds import within_limits
from pipelines.engine.stage import Call, Decision, Inputs, Output, Record, Refusal, Result, Source, Stage, Tables
from schemas import codec, metrics
from schemas.keys import provider_message_key
from schemas.outcomes import Accepted, Outcome, Rejected, RetryLater, Scope, Unknown
from schemas.records import SIGNALS, Binding, Cause, Delivery, Status, StatusUpdate
from tables.agenda import Agenda
from tables.lanes import Lane, Lanes, lane_of
from tables.layout import Layout
from tables.outstanding import OUTSTANDING, Outstanding, Phase
from tables.table import Table

log = structlog.get_logger(__name__)
FIRST_BACKOFF_MS = 1000
LONGEST_BACKOFF_MS = 60_000
LONGEST_WAIT_SECONDS = 7 * 86_400.0  # whatever a provider wishes for
DUE_PER_TURN = 32  # rows; the largest have 300 kB
MOST_BLOCKED = 1000  # accounts, before those that take deliveries again are forgotten


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one partition of send."""

    concurrency: int  # calls in flight
    outstanding: int  # rows above which no further deliveries are taken
    attempts: int  # failed attempts before a delivery is given up
    hold_ms: int  # how long an unknown outcome waits for evidence


@dataclass(slots=True)
class State:
    """One partition of send; all but `rows` is derived from them."""

    rows: Table[Outstanding]
    lanes: Lanes = field(default_factory=Lanes)
    agenda: Agenda = field(default_factory=Agenda)  # delivery ids that wait for a time
    interrupted: list[str] = field(default_factory=list)  # intents whose result was lost
    calling: set[str] = field(default_factory=set)  # delivery ids whose call is in flight
    # (channel, account) -> until when it takes nothing, Unix milliseconds; forgotten at a restart, then learnt again
    blocked: dict[tuple[str, str], int] = field(default_factory=dict)


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

    def __init__(self, *, connectors: Mapping[str, Connector], limits: Limits) -> None:
        self._connectors = connectors
        self._limits = limits
        self._in_flight: set[str] = set()  # delivery ids whose call this worker is making
        self.sources = (Source("status-updates"), *(Source(f"deliveries.{channel}") for channel in sorted(connectors)))

    async def stop(self) -> None:
        for connector in self._connectors.values():
            await connector.close()

    def open(self, partition: int, tables: Tables) -> State:  # noqa: ARG002  # a partition's number means nothing here
        state = State(tables["outstanding"])
        # what was begun stays at the head of its lane
        for _, row in sorted(
            state.rows.items(),
            key=lambda item: (item[1].phase is Phase.WAITING and not item[1].part, item[1].delivery.seq),
        ):
            state.lanes.add(row.delivery)
            if row.phase is Phase.CALLING:
                if row.delivery.delivery_id in self._in_flight:
                    state.calling.add(row.delivery.delivery_id)  # the state is made anew, the call goes on
                else:
                    state.interrupted.append(row.delivery.delivery_id)
            elif row.phase is Phase.HELD:
                state.agenda.set(row.delivery.delivery_id, row.not_before)
        return state

    def next_due(self, state: State) -> int | None:
        may_call = state.lanes.any_ready() and len(state.calling) < self._limits.concurrency
        return 0 if state.interrupted or may_call else state.agenda.next_due()

    def takes(self, topic: str, state: State) -> bool:
        return topic == "status-updates" or len(state.rows) < self._limits.outstanding

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
            self._settle(result, state, decision, now)
        for record in inputs.records:
            try:
                if record.topic == "status-updates":
                    self._weigh(record, state, decision, now)
                else:
                    self._take(record, state, decision)
            except codec.CodecError as error:
                decision.refusals.append(Refusal(record, error.cause, str(error)))
        for delivery_id in state.interrupted:
            row = state.rows.get(delivery_id.encode())
            if row is not None and row.phase is Phase.CALLING:  # else its result came with this very turn
                self._unknown(row, Unknown("the worker ended before the answer was recorded"), state, decision, now)
        state.interrupted.clear()
        for delivery_id in state.agenda.take_due(now, DUE_PER_TURN):
            self._due(delivery_id, state, decision, now)
        if not inputs.closing:
            self._start_calls(state, decision, now)
        return decision

    # --- what comes in --------------------------------------------------------------------------------------------------

    def _take(self, record: Record, state: State, decision: Decision) -> None:
        delivery = codec.decode(record.value, Delivery)
        if delivery.home_partition != record.partition:
            detail = f"the delivery's home is partition {delivery.home_partition}: produce it there, as route does"
            decision.refusals.append(Refusal(record, "wrong_partition", detail, delivery.tenant_id))
            return
        key = delivery.delivery_id.encode()
        if key in state.rows:
            return
        state.rows.put(
            key,
            Outstanding(delivery, (record.topic, record.offset, record.timestamp), not_before=delivery.not_before or 0),
        )
        state.lanes.add(delivery)

    def _weigh(self, record: Record, state: State, decision: Decision, now: int) -> None:
        """A receipt for a delivery whose outcome we do not know is proof that the provider has it."""
        if not len(state.rows):
            return
        update = codec.decode(record.value, StatusUpdate)
        row = state.rows.get(update.delivery_id.encode())
        if row is None or update.cause is not Cause.RECEIPT or not update.provider_message_id:
            return
        if row.part and update.attempt <= row.part_since:
            return  # a receipt of a part that was taken before; one without our tracker is of such a part always
        if row.phase is Phase.CALLING and update.delivery_id not in state.interrupted:
            proven = dataclasses.replace(row, evidence=row.evidence or update.provider_message_id)
            state.rows.put(update.delivery_id.encode(), proven)
        elif row.attempt:
            self._proven(row, update.provider_message_id, state, decision, now)

    def _settle(self, result: Result, state: State, decision: Decision, now: int) -> None:
        row = state.rows.get(result.call.key.encode())
        state.calling.discard(result.call.key)
        if row is None or row.phase is not Phase.CALLING or row.attempt != result.call.request.number:
            return  # ended meanwhile, by evidence
        outcome = within_limits(result.value)
        if isinstance(outcome, Accepted):
            self._accepted(row, outcome.provider_ids, state, decision, now)
        elif row.evidence is not None:
            self._proven(row, row.evidence, state, decision, now)
        elif isinstance(outcome, RetryLater):
            self._retry_later(row, outcome, state, decision, now)
        elif isinstance(outcome, Rejected):
            decision.count("rejected")
            decision.outputs.append(_update(row, Status.FAILED, Cause.REJECTED, now, (outcome.code, outcome.reason)))
            self._end(row, state)
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
            self._end(row, state)
            return
        following = dataclasses.replace(
            row, phase=Phase.WAITING, part=row.part + 1, part_since=row.attempt, failures=0, resends=0, not_before=0,
            evidence=None,
        )  # fmt: skip
        state.rows.put(delivery.delivery_id.encode(), following)
        state.agenda.cancel(delivery.delivery_id)
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
            self._end(row, state)
            return
        wished = outcome.after_seconds
        wait = _backoff(row, failures) if wished is None else int(min(max(wished, 0.0), LONGEST_WAIT_SECONDS) * 1000)
        decision.count("throttled" if outcome.throttled else "retry_later")
        decision.outputs.append(_update(row, Status.PENDING, Cause.RETRY_LATER, now, (outcome.code, outcome.reason)))
        if outcome.scope is not Scope.PAIR:
            place = (row.delivery.channel, row.delivery.account)
            state.blocked[place] = max(state.blocked.get(place, 0), now + wait)
            if len(state.blocked) > MOST_BLOCKED:
                state.blocked = {place: until for place, until in state.blocked.items() if until > now}
        self._wait(dataclasses.replace(row, phase=Phase.WAITING, failures=failures, not_before=now + wait), state)

    def _unknown(self, row: Outstanding, outcome: Unknown, state: State, decision: Decision, now: int) -> None:
        if row.evidence is not None:
            self._proven(row, row.evidence, state, decision, now)
            return
        decision.count("unknown")
        policy = self._connectors[row.delivery.channel].capabilities.unknown_policy
        if row.delivery.kind in SIGNALS:
            policy = "resend"  # no evidence of a signal ever comes, and a second one hurts nobody
        if policy == "fail":
            decision.outputs.append(_update(row, Status.FAILED, Cause.UNKNOWN, now, (outcome.code, outcome.reason)))
            self._end(row, state)
            return
        decision.outputs.append(_update(row, Status.PENDING, Cause.UNKNOWN, now, (outcome.code, outcome.reason)))
        if policy == "hold":
            self._wait(dataclasses.replace(row, phase=Phase.HELD, not_before=now + self._limits.hold_ms), state)
        else:
            self._resend(row, state, decision, now)

    def _resend(self, row: Outstanding, state: State, decision: Decision, now: int) -> None:
        if row.resends + 1 >= self._limits.attempts:
            given_up = RetryLater(reason="every attempt ended without an answer", code="unknown")
            decision.count("exhausted")
            decision.outputs.append(_update(row, Status.FAILED, Cause.EXHAUSTED, now, (given_up.code, given_up.reason)))
            decision.refusals.append(_given_up(row, given_up))
            self._end(row, state)
            return
        decision.count("resent")
        decision.outputs.append(_update(row, Status.PENDING, Cause.RESENT, now))
        wait = _backoff(row, row.resends)
        self._wait(dataclasses.replace(row, phase=Phase.WAITING, resends=row.resends + 1, not_before=now + wait), state)

    # --- lanes ----------------------------------------------------------------------------------------------------------

    def _due(self, delivery_id: str, state: State, decision: Decision, now: int) -> None:
        row = state.rows.get(delivery_id.encode())
        if row is None:
            return
        if row.phase is Phase.HELD:
            self._resend(row, state, decision, now)
        else:
            state.lanes.ready(lane_of(row.delivery))

    def _start_calls(self, state: State, decision: Decision, now: int) -> None:
        while len(state.calling) < self._limits.concurrency and (lane := state.lanes.next_ready()) is not None:
            self._start_head(lane, state, decision, now)

    def _start_head(self, lane: Lane, state: State, decision: Decision, now: int) -> None:
        delivery_id = state.lanes.head(lane)
        row = state.rows.get(delivery_id.encode()) if delivery_id else None
        if row is None or row.phase is not Phase.WAITING:
            return
        delivery = row.delivery
        if delivery.expires_at is not None and delivery.expires_at <= now:
            decision.count("expired")
            decision.outputs.append(
                _update(row, Status.EXPIRED, Cause.EXPIRED, now, ("expired", "it could not be sent in time"))
            )
            self._end(row, state)
            return
        not_before = max(row.not_before, state.blocked.get((delivery.channel, delivery.account), 0))
        if not_before > now:
            state.agenda.set(delivery.delivery_id, _look_again(delivery, not_before))
            return
        intent = dataclasses.replace(row, phase=Phase.CALLING, attempt=row.attempt + 1, dispatched_at=now)
        state.rows.put(delivery.delivery_id.encode(), intent)
        state.calling.add(delivery.delivery_id)
        decision.calls.append(Call(delivery.delivery_id, Attempt(delivery, intent.attempt, intent.part)))

    def _wait(self, row: Outstanding, state: State) -> None:
        state.rows.put(row.delivery.delivery_id.encode(), row)
        held = row.phase is Phase.HELD  # evidence may come after the delivery's own time
        until = row.not_before if held else _look_again(row.delivery, row.not_before)
        state.agenda.set(row.delivery.delivery_id, until)

    def _end(self, row: Outstanding, state: State) -> None:
        state.rows.delete(row.delivery.delivery_id.encode())
        state.agenda.cancel(row.delivery.delivery_id)
        state.lanes.remove(row.delivery)


def _look_again(delivery: Delivery, not_before: int) -> int:
    """When there is something to do for a delivery that waits: to try it, or to end it because its time is over."""
    return not_before if delivery.expires_at is None else min(not_before, delivery.expires_at)


def _backoff(row: Outstanding, times: int) -> int:
    """Exponential with jitter, milliseconds; the jitter comes from the ids, so that a decision stays a function of its inputs."""
    longest = min(LONGEST_BACKOFF_MS, FIRST_BACKOFF_MS << min(times, 10))
    spread = hashlib.blake2b(f"{row.delivery.delivery_id}{row.attempt}".encode(), digest_size=2).digest()
    return longest // 2 + longest * int.from_bytes(spread, "big") // 131_072


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
    return Output("status-updates", delivery.conversation_id.encode(), codec.encode(update), delivery.home_partition)


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
    record = Record(
        topic, delivery.home_partition, offset, timestamp, delivery.conversation_id.encode(), codec.encode(delivery), ()
    )
    detail = f"given up after attempt {row.attempt}: {outcome.reason} ({outcome.code})"
    return Refusal(record, "attempts_exhausted", detail, delivery.tenant_id)
