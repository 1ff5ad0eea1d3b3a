"""Stage send against a model: deliveries, answers of every kind, receipts, time, lost turns and crashed workers, in any order.
Invariants are checked after every turn; at the end only the stage's own next_due starts turns, and every delivery must end.
"""

import copy
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pipelines.engine.stage import Decision, Record, Refusal, Result
from pipelines.send import Attempt, Send
from pipelines.send_state import SendLimits, State
from pipelines.send_windows import KnownWindows
from schemas import codec
from schemas.outcomes import Accepted, Outcome, Rejected, RetryLater, Scope, Unknown
from schemas.records import Binding, Cause, Delivery, Status, StatusUpdate
from tables.fair_queue import Lane, place_of
from tables.lanes import lane_of
from tables.outstanding import OUTSTANDING, Outstanding, Phase
from tests.support.builders import NOW, Desk, decoded, delivery, examples, record, update
from tests.support.counting_provider import Performed, Provider

POLICIES = {"whatsapp": "hold", "telegram": "resend", "internal": "fail"}
HOLD_MS = 5000
LIMITS = (
    SendLimits(concurrency=3, outstanding=6, attempts=3, hold_ms=HOLD_MS, scheduled=4),
    SendLimits(concurrency=3, account=1, outstanding=6, attempts=3, hold_ms=HOLD_MS, scheduled=4),
    SendLimits(
        concurrency=8, account=2, outstanding=30, attempts=3, hold_ms=HOLD_MS, scheduled=10, scheduled_bytes=500
    ),
)
TENANTS = ("many", "many", "many", "few")
# channel, account: lanes share an account, so that a throttle of one holds the others; in one lane there may be two accounts
ACCOUNTS = (("whatsapp", "acc-1"), ("whatsapp", "acc-2"), ("telegram", "4242"), ("internal", "app"))
ADDRESSES = ("1", "2", "3")
# milliseconds until a scheduled delivery's time
_WAITS = st.sampled_from([None, None, 700, 700, 9000, 40 * 86_400_000])
_LIVES = st.sampled_from([None, None, 300, 3000])  # milliseconds until a delivery expires
KINDS = st.fixed_dictionaries(
    {
        "tenant": st.sampled_from(TENANTS),
        "place": st.sampled_from(ACCOUNTS),
        "wait": _WAITS,
        "life": _LIVES,
        "text": st.sampled_from(["one", "one", "one|two"]),
    }
)
TERMINAL = (Cause.ACCEPTED, Cause.REJECTED, Cause.EXPIRED, Cause.EXHAUSTED)
SURELY_NOT_SENT: tuple[Outcome, ...] = (
    RetryLater("502", "502"),
    RetryLater("too fast", "429", after_seconds=2.5, throttled=True),
    RetryLater("too fast, all of you", "429", after_seconds=4.0, throttled=True, scope=Scope.ACCOUNT),
    Rejected("131026", "no such person"),
)
# What the providers answer at the end: success, errors, no answer, or a throttle of every account for some time.
ENDINGS = ("well", "broken", "silent", "throttled")


@dataclass
class Known:
    """A delivery as the model knows it, from committed turns and from the provider's actions."""

    delivery: Delivery
    source: Record
    part: int = 0  # the part to send
    since: int = 0  # the attempt that ended the part before
    started: list[int] = field(default_factory=list)  # when each call started
    taken: set[int] = field(default_factory=set)  # attempts that the provider accepted, whatever it answered
    ended: Cause | None = None
    not_before: int = 0  # what the latest answer asked for
    ready: set[int | None] = field(default_factory=set)  # what its attempts say of when it was the first of its lane
    proven: bool = False  # a committed turn took a receipt of it
    causes: Counter[Cause] = field(default_factory=Counter)
    events: set[str] = field(default_factory=set)
    letters: int = 0


class SendModel(RuleBasedStateMachine):
    @initialize(ending=st.sampled_from(ENDINGS), limits=st.sampled_from(LIMITS))
    def begin(self, ending: str, limits: SendLimits) -> None:
        self.ending = ending
        self.limits = limits
        self.now = NOW
        self.known: dict[str, Known] = {}
        self.topics: dict[str, list[Record]] = defaultdict(list)
        self.taken_to: Counter[str] = Counter()  # committed position in each topic
        self.sequence = 0
        self.running: dict[str, Performed] = {}
        self.results: list[Result] = []
        self.blocked: dict[str, int] = {}
        self.new_worker()
        self.desk: Desk[State] = Desk(self.stage)

    def new_worker(self) -> None:
        self.providers = {channel: Provider(channel, policy) for channel, policy in POLICIES.items()}
        self.stage = Send(connectors=self.providers, limits=self.limits)

    # --- the world ------------------------------------------------------------------------------------------------------

    @rule(kind=KINDS, addresses=st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=4))
    def route_hands_over(self, kind: dict[str, Any], addresses: list[str]) -> None:
        for address in addresses:
            self.hand_over(kind, address)

    def hand_over(self, kind: dict[str, Any], address: str) -> None:
        (channel, account), wait, life = kind["place"], kind["wait"], kind["life"]
        self.sequence += 1
        made = delivery(
            f"d{self.sequence}",
            tenant_id=kind["tenant"],
            seq=self.sequence,
            channel=channel,
            account=account,
            address=address,
            text=kind["text"],  # as many parts as the Provider sees in it
            not_before=None if wait is None else self.now + wait,
            expires_at=None if life is None else self.now + life,
        )
        topic = f"deliveries.{channel}"
        source = record(topic, made, offset=len(self.topics[topic]), timestamp=self.now)
        self.topics[topic].append(source)
        self.known[made.delivery_id] = Known(made, source)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def provider_takes_a_call(self, data: st.DataObject) -> None:
        """The provider has the message now; its answer may still get lost, and its receipt may arrive before the answer."""
        key = data.draw(st.sampled_from(sorted(self.running)), label="call")
        self.known[key].taken.add(self.running[key].call.request.number)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def provider_answers(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)), label="call")
        number = self.running[key].call.request.number
        taken = number in self.known[key].taken
        accepted = Accepted((f"{key}-{number}",))
        possible = (accepted, Unknown("time-out")) if taken else (accepted, Unknown("time-out"), *SURELY_NOT_SENT)
        self.answer(key, data.draw(st.sampled_from(possible), label="answer"))

    def answer(self, key: str, outcome: Outcome) -> None:
        number = self.running[key].call.request.number
        if isinstance(outcome, Accepted):
            self.known[key].taken.add(number)
        self.results.append(self.running.pop(key).finish(outcome))
        self.desk.running.pop(key)

    @precondition(lambda self: any(each.taken for each in self.known.values()))
    @rule(data=st.data(), failed=st.booleans())
    def a_receipt_comes(self, data: st.DataObject, failed: bool) -> None:
        key = data.draw(st.sampled_from(sorted(k for k, each in self.known.items() if each.taken)), label="delivery")
        number = max(self.known[key].taken)
        status = Status.FAILED if failed else Status.DELIVERED
        event = f"{key}:{number}:{status}:receipt"
        tracked = {"attempt": number, "provider_message_id": f"{key}-{number}"}
        tenant_id = self.known[key].delivery.tenant_id
        self.add_update(update(event, tenant_id=tenant_id, delivery_id=key, status=status, **tracked))

    def add_update(self, added: StatusUpdate) -> None:
        log = self.topics["status-updates"]
        log.append(record("status-updates", added, offset=len(log), timestamp=self.now))

    @rule(answer=st.sampled_from((Unknown("time-out"), *SURELY_NOT_SENT)))
    def a_storm(self, answer: Outcome) -> None:
        """All calls in flight end in the same way, where possible, and the engine takes turns."""
        for key in sorted(self.running):
            number = self.running[key].call.request.number
            self.answer(key, Unknown("time-out") if number in self.known[key].taken else answer)
        self.commit_turn([])
        self.now = max(self.now, self.desk.due() or 0)
        self.commit_turn(self.fetch(None))

    @rule(milliseconds=st.sampled_from([1, 400, 1000, 2500, HOLD_MS]))
    def time_passes(self, milliseconds: int) -> None:
        self.now += milliseconds

    @rule()
    def time_comes(self) -> None:
        self.now = max(self.now, self.desk.due() or 0)

    # --- the engine -----------------------------------------------------------------------------------------------------

    @rule(data=st.data(), closing=st.sampled_from([False, False, False, True]))
    def turn(self, data: st.DataObject, closing: bool) -> None:
        self.commit_turn(self.fetch(data), closing=closing)
        if closing:
            self.partition_starts_again()

    @rule(data=st.data())
    def turn_is_decided_and_undone(self, data: st.DataObject) -> None:
        """Another record of the turn raised: rows and state are derived again, and nothing of the turn is visible."""
        batch = self.fetch(data)
        self.desk.decide(batch, self.results, self.now)
        self.partition_starts_again()
        self.commit_turn(batch)  # the engine decides again at once, without the record that raised

    @rule()
    def partition_starts_again(self) -> None:
        """A rebalance that leaves the partition here: calls continue, and the first turn takes waiting results."""
        self.desk.reopen()
        self.blocked.clear()

    @rule(data=st.data(), amid=st.booleans())
    def worker_dies(self, data: st.DataObject, amid: bool) -> None:
        if amid:
            self.desk.decide(self.fetch(data), self.results, self.now)
        for call in self.running.values():
            call.lose()
        self.running.clear()
        self.results.clear()
        self.blocked.clear()
        self.new_worker()
        self.desk.restart(self.stage)

    def fetch(self, data: st.DataObject | None) -> list[Record]:
        """Some of the waiting records of each topic that the stage takes from; all of them without `data`."""
        batch: list[Record] = []
        for topic in sorted(self.topics):
            waiting = self.topics[topic][self.taken_to[topic] :]
            if waiting and self.stage.takes(topic, self.desk.state):
                size = len(waiting) if data is None else data.draw(st.integers(0, len(waiting)), label=topic)
                batch += waiting[:size]
        return batch

    def commit_turn(self, batch: list[Record], *, closing: bool = False, again: bool = False) -> None:
        decision = self.desk.turn(batch, self.results, self.now, closing=closing)
        for each in batch:
            self.taken_to[each.topic] = each.offset + 1
        answers = {result.call.key: result for result in self.results}
        self.results.clear()
        self.learn(decision, answers)
        for each in batch:
            self.learn_evidence(each)
        if closing:
            assert not decision.calls
        for call in decision.calls:
            self.check_call(call.key, call.request)
        for call in decision.calls:
            self.running[call.key] = Performed(self.stage, self.providers[call.request.delivery.channel], call)
        self.check_rows()
        if not closing:
            self.check_due(again=again)

    # --- what the committed turn says -----------------------------------------------------------------------------------

    def learn(self, decision: Decision, answers: dict[str, Result]) -> None:
        for each in decoded(decision.outputs, "status-updates", StatusUpdate):
            self.learn_update(each, answers.get(each.delivery_id))
            self.add_update(each)
        bound = Counter(each.delivery_id for each in decoded(decision.outputs, "bindings", Binding)[::2])
        accepted = [
            each.delivery_id
            for each in decoded(decision.outputs, "status-updates", StatusUpdate)
            if each.cause is Cause.ACCEPTED
        ]
        assert bound == Counter(accepted), "every accepted id is bound, and no other"
        for refusal in decision.refusals:
            self.learn_letter(refusal)
        assert decision.counts.get("schedule_full", 0) == sum(r.cause == "schedule_full" for r in decision.refusals)

    def learn_update(self, each: StatusUpdate, answer: Result | None) -> None:
        known = self.known[each.delivery_id]
        assert known.ended is None, f"{each.cause} after {known.ended}"
        assert each.event_id not in known.events, "track would drop the second"
        known.events.add(each.event_id)
        known.causes[each.cause] += 1
        self.learn_times(each, known)
        if each.cause is Cause.ACCEPTED and each.status is Status.PENDING:
            known.part, known.since, known.proven, known.not_before = known.part + 1, each.attempt, False, 0
        elif each.cause in TERMINAL or each.status is Status.FAILED:
            known.ended = each.cause
        if each.cause is Cause.UNKNOWN and POLICIES[known.delivery.channel] == "hold":
            known.not_before = self.now + HOLD_MS
        if each.cause is Cause.RETRY_LATER:
            assert answer is not None
            outcome = answer.value
            wait = int((outcome.after_seconds or 0) * 1000)
            known.not_before = self.now + wait
            if outcome.scope is Scope.ACCOUNT:
                place = place_of(known.delivery)
                self.blocked[place] = max(self.blocked.get(place, 0), self.now + wait)

    def learn_times(self, each: StatusUpdate, known: Known) -> None:
        """An attempt has the time at which its delivery was the first of its lane, and the next one is not called before `retry_at`."""
        if each.attempt:
            assert each.ready_at is not None
            assert each.dispatched_at is not None
            assert max(NOW, known.delivery.not_before or 0) <= each.ready_at <= each.dispatched_at
            known.ready.add(each.ready_at)
            assert len(known.ready) == 1, "another time than the attempt before"
        row, over = self.desk.rows("outstanding").get(each.delivery_id.encode()), known.delivery.expires_at
        if row is None:  # it ended in the same turn
            return
        if each.retry_at is not None:
            assert self.now <= row.not_before <= each.retry_at
            assert over is None or each.retry_at < over, "no attempt follows"
        elif each.cause in (Cause.RETRY_LATER, Cause.RESENT):
            assert over is not None
            assert max(row.not_before, self.desk.state.blocked.at(place_of(known.delivery)) or 0) >= over

    def learn_evidence(self, each: Record) -> None:
        if each.topic == "status-updates":
            update = codec.decode(each.value, StatusUpdate)
            delivered = self.known[update.delivery_id]
            if update.cause is Cause.RECEIPT and update.attempt > delivered.since:
                delivered.proven = True

    def learn_letter(self, refusal: Refusal) -> None:
        sent = codec.decode(refusal.record.value, Delivery)
        known = self.known[sent.delivery_id]
        assert sent == known.delivery
        assert refusal.record == known.source
        assert known.ended is {"attempts_exhausted": Cause.EXHAUSTED, "schedule_full": Cause.REJECTED}[refusal.cause]
        assert refusal.cause != "schedule_full" or (sent.not_before or 0) > self.now, "only scheduled deliveries"
        known.letters += 1

    # --- what may never happen ------------------------------------------------------------------------------------------

    def check_call(self, key: str, attempt: Attempt) -> None:
        known, number = self.known[key], attempt.number
        lane = lane_of(known.delivery)
        value = self.desk.changelog["outstanding"].get(key.encode())
        assert value is not None, "a call without a row"
        row = OUTSTANDING.decode(value)
        assert (row.phase, row.attempt, row.dispatched_at) == (Phase.CALLING, number, self.now), "without its intent"
        assert all(lane_of(self.known[other].delivery) != lane for other in self.running), "two calls in one lane"
        if number == 1:
            assert all(
                (each.delivery.not_before or 0) > self.now
                for each in self.taken()
                if each.ended is None and lane_of(each.delivery) == lane and each.delivery.seq < known.delivery.seq
            ), "before an earlier one that is due"
        known.started.append(self.now)
        assert number == len(known.started)
        assert attempt.part == known.part, "a part that was taken, or one too early"
        reasons = known.causes[Cause.RETRY_LATER] + known.causes[Cause.RESENT] + known.part
        assert number - 1 <= reasons, "repeated without a reason"
        assert known.ended is None
        assert not known.proven, "the provider is known to have it"
        assert self.now >= max(known.not_before, known.delivery.not_before or 0), "too early"
        assert known.delivery.expires_at is None or self.now < known.delivery.expires_at, "too late"
        assert self.now >= self.blocked.get(place_of(known.delivery), 0), "the account is throttled"

    def taken(self) -> list[Known]:
        """Deliveries that were taken from Kafka."""
        return [each for each in self.known.values() if each.source.offset < self.taken_to[each.source.topic]]

    def check_rows(self) -> None:
        assert len(self.running) <= self.limits.concurrency
        calls = Counter(self.known[key].delivery.tenant_id for key in self.running)
        assert max(calls.values(), default=0) <= self.limits.calls_of_a_tenant
        assert max(self.of_accounts().values(), default=0) <= self.limits.account
        outstanding = {each.delivery.delivery_id for each in self.taken() if each.ended is None}
        assert {key.decode() for key in self.desk.changelog["outstanding"]} == outstanding
        assert set(self.running) <= outstanding, "a delivery with a call in flight has not ended"
        waiting = Counter(row.delivery.tenant_id for row in self.rows() if row.is_scheduled)
        assert sum(waiting.values()) <= self.limits.scheduled
        assert all(2 * number <= self.limits.scheduled + 1 for number in waiting.values()), "more than its share"
        self.check_derived()

    def check_derived(self) -> None:
        """The derived state equals the state that a restart derives."""
        state, derived = (
            self.desk.state,
            State.opened(
                self.desk.tables["outstanding"],
                self.limits,
                set(self.running),
                KnownWindows(self.desk.tables["windows"]),
            ),
        )
        for row in self.rows():
            tenant, lane = row.delivery.tenant_id, lane_of(row.delivery)
            assert state.lanes.head(lane) == derived.lanes.head(lane)
            assert state.held.rows(tenant) == derived.held.rows(tenant)
            assert state.scheduled.rows(tenant) == derived.scheduled.rows(tenant)
        assert (len(state.held), len(state.scheduled)) == (len(derived.held), len(derived.scheduled))
        assert len(state.lanes) == len(derived.lanes)

    def rows(self) -> list[Outstanding]:
        """The committed rows."""
        return [OUTSTANDING.decode(value) for value in self.desk.changelog["outstanding"].values()]

    def check_due(self, *, again: bool) -> None:
        """Nothing may be due before next_due: no other event wakes the partition earlier."""
        due = self.desk.due()
        if due is not None and due <= self.now:  # an expired delivery at the end of its hold: resent, then expired
            assert not again, "an endless series of turns at the same time"
            self.commit_turn([], again=True)
            return
        probe = self.now + 600_000 if due is None else due - 1
        state = self.desk.state
        kept = copy.deepcopy((state.blocked, state.lanes)) if (state.blocked.next_due() or probe) < probe else None
        early = self.desk.decide(now=probe)
        if kept is not None:  # the clock goes back after this look ahead, and accounts are throttled as before
            state.blocked, state.lanes = kept
        assert [*early.outputs, *early.calls, *early.refusals] == []
        assert not self.desk.tables["outstanding"].changes()
        if len(self.running) < self.limits.concurrency:
            calls = Counter(self.known[key].delivery.tenant_id for key in self.running)
            accounts = self.of_accounts()
            for row in self.heads():
                has_room = (
                    calls[row.delivery.tenant_id] < self.limits.calls_of_a_tenant
                    and accounts[place_of(row.delivery)] < self.limits.account
                )
                if has_room or row.phase is Phase.HELD:
                    assert due is not None
                    assert due <= self.next_step(row), "a lane's head would be checked too late"
        for row in self.rows():
            if row.is_scheduled:
                assert due is not None
                assert due <= min(row.not_before, row.delivery.expires_at or row.not_before), "it would be late"

    def of_accounts(self) -> Counter[str]:
        """Calls in flight to each account."""
        return Counter(place_of(self.known[key].delivery) for key in self.running)

    def heads(self) -> list[Outstanding]:
        """The head of every lane without a call in flight, from the committed rows; scheduled deliveries are in no lane."""
        first: dict[Lane, Outstanding] = {}
        for row in sorted(self.rows(), key=lambda row: (not row.attempt, row.delivery.seq)):
            if not row.is_scheduled:
                first.setdefault(lane_of(row.delivery), row)
        return [row for row in first.values() if row.phase is not Phase.CALLING]

    def next_step(self, row: Outstanding) -> int:
        if row.phase is Phase.HELD:
            return row.not_before
        blocked = self.desk.state.blocked.at(place_of(row.delivery)) or 0
        return min(max(row.not_before, blocked), row.delivery.expires_at or row.not_before + blocked)

    # --- the end --------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "desk"):
            return
        self.drive_to_the_end()
        for key, known in self.known.items():
            assert known.ended is not None, key
            refused = known.ended is Cause.REJECTED and not known.started
            assert known.letters == (known.ended is Cause.EXHAUSTED or refused)
            assert len(known.taken) <= known.part + 1 + known.causes[Cause.RESENT], (
                "more duplicates than resends were reported"
            )
            assert known.ended is not Cause.ACCEPTED or known.part == known.delivery.text.count("|"), "parts left out"
        for call in self.running.values():
            call.lose()

    def drive_to_the_end(self) -> None:
        """Providers answer at once, all in the same way; only records, results and next_due wake the stage."""
        for turn in range(600):
            for key in sorted(self.running):
                self.answer(key, self.last_answer(key, turn))
            batch = self.fetch(None)
            due = self.desk.due()
            if not (batch or self.results or (due is not None and due <= self.now)):
                if due is None:
                    break
                self.now = due
            self.commit_turn(batch)
        assert not self.desk.changelog["outstanding"], "a delivery that no turn will ever take up"
        assert all(self.taken_to[topic] == len(log) for topic, log in self.topics.items())

    def last_answer(self, key: str, turn: int) -> Outcome:
        number = self.running[key].call.request.number
        if self.ending == "silent" or (self.ending != "well" and number in self.known[key].taken):
            return Unknown("time-out")
        if self.ending == "broken" or (self.ending == "throttled" and turn % 20 < 10):
            return SURELY_NOT_SENT[0 if self.ending == "broken" else 2]
        return Accepted((f"{key}-last",))


SendModel.TestCase.settings = examples(250, steps=40)
TestSendModel = SendModel.TestCase


def test_an_account_stays_throttled_when_the_delivery_that_met_the_limit_has_expired() -> None:
    model = SendModel()
    model.begin("well", LIMITS[0])
    kind: dict[str, Any] = {"tenant": "many", "place": ("whatsapp", "acc-1"), "wait": None, "life": 300, "text": "one"}
    model.hand_over(kind, "1")
    model.commit_turn(model.fetch(None))
    model.answer("d1", SURELY_NOT_SENT[2])
    model.commit_turn([])
    model.time_comes()
    model.commit_turn([])
    assert model.known["d1"].ended is Cause.EXPIRED
    model.hand_over({**kind, "life": None}, "2")
    model.commit_turn(model.fetch(None))
    assert not model.running, "the account is still throttled"
    model.time_comes()
    model.commit_turn([])
    assert set(model.running) == {"d2"}
    model.teardown()
