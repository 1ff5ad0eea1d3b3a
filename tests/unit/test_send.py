"""Stage send, case by case: the effect of each outcome, what waits for what, and what a restart finds. See test_send_model.py for
any order of these events."""

import dataclasses
from typing import NamedTuple

import pytest

from pipelines.engine.stage import Call, Decision, Record, Result
from pipelines.send import Attempt, Send
from pipelines.send_state import FIRST_BACKOFF_MS, LONGEST_BACKOFF_MS, SendLimits, State
from schemas import codec
from schemas.causes import DESCRIPTIONS
from schemas.outcomes import Accepted, Outcome, Rejected, RetryLater, Scope, Unknown
from schemas.records import Binding, Cause, Delivery, Status, StatusUpdate
from tables.outstanding import Phase
from tests.support.builders import HERE, NOW, Desk, decoded, delivery, numbered, raw, record, refused, update
from tests.support.counting_provider import Provider

HOLD_MS = 60_000
LIMITS = SendLimits(concurrency=4, outstanding=10, attempts=3, hold_ms=HOLD_MS)
POLICIES = {"whatsapp": "hold", "telegram": "resend", "internal": "fail"}
THROTTLED = RetryLater("too fast", "429", after_seconds=7.0, throttled=True)


def a_send(limits: SendLimits = LIMITS) -> Send:
    return Send(connectors={name: Provider(name, policy) for name, policy in POLICIES.items()}, limits=limits)


@pytest.fixture
def desk() -> Desk[State]:
    return Desk(a_send())


def to_send(*deliveries: Delivery) -> list[Record]:
    return numbered([record(f"deliveries.{each.channel}", each) for each in deliveries], start=40)


def keys(decision: Decision) -> list[str]:
    return [call.key for call in decision.calls]


def reported(decision: Decision) -> list[tuple[Status, Cause]]:
    return [(each.status, each.cause) for each in decoded(decision.outputs, "status-updates", StatusUpdate)]


def answered(decision: Decision, outcome: Outcome, place: int = 0) -> list[Result]:
    return [Result(decision.calls[place], outcome)]


def evidence(delivery_id: str = "dlv-1", provider_message_id: str | None = "wamid-1", **changes: object) -> Record:
    told_by = update(f"{delivery_id}:r", delivery_id=delivery_id, provider_message_id=provider_message_id, **changes)
    return record("status-updates", told_by)


def waited(desk: Desk[State]) -> int:
    """How long the only row waits, in milliseconds from NOW."""
    due = desk.due()
    assert due is not None
    return due - NOW


# --- outcomes -----------------------------------------------------------------------------------------------------------


class Answered(NamedTuple):
    label: str
    channel: str
    outcome: Outcome
    reported: list[tuple[Status, Cause]]
    phase: Phase | None  # of the remaining row


PENDING, FAILED, SENT = Status.PENDING, Status.FAILED, Status.SENT
RESENT = [(PENDING, Cause.UNKNOWN), (PENDING, Cause.RESENT)]
ANSWERED = (
    Answered("accepted", "whatsapp", Accepted(("wamid-1",)), [(SENT, Cause.ACCEPTED)], None),
    Answered("accepted in two parts", "telegram", Accepted(("5:1", "5:2")), [(SENT, Cause.ACCEPTED)], None),
    Answered("rejected", "whatsapp", Rejected("131026", "no such person"), [(FAILED, Cause.REJECTED)], None),
    Answered("throttled", "whatsapp", THROTTLED, [(PENDING, Cause.RETRY_LATER)], Phase.WAITING),
    Answered("broken for now", "telegram", RetryLater("502", "502"), [(PENDING, Cause.RETRY_LATER)], Phase.WAITING),
    Answered("unknown where we hold", "whatsapp", Unknown("time-out"), [(PENDING, Cause.UNKNOWN)], Phase.HELD),
    Answered("unknown where we resend", "telegram", Unknown("time-out"), RESENT, Phase.WAITING),
    Answered("unknown where we give up", "internal", Unknown("time-out"), [(FAILED, Cause.UNKNOWN)], None),
)


@pytest.mark.parametrize("case", ANSWERED, ids=lambda case: case.label)
def test_an_outcome_becomes_updates_and_a_row(case: Answered, desk: Desk[State]) -> None:
    asked = desk.turn(to_send(delivery(channel=case.channel)))
    assert reported(asked) == []
    decision = desk.turn(results=answered(asked, case.outcome), now=NOW + 80)
    assert reported(decision) == case.reported
    assert [row.phase for row in desk.rows("outstanding").values()] == ([] if case.phase is None else [case.phase])
    assert not decision.refusals
    first = decoded(decision.outputs, "status-updates", StatusUpdate)[0]
    assert (first.attempt, first.dispatched_at, first.occurred_at) == (1, NOW, NOW + 80)
    assert {(o.key, o.partition) for o in decision.outputs if o.topic == "status-updates"} == {(HERE.encode(), 0)}


def test_an_accepted_delivery_is_bound_to_every_id_the_provider_gave(desk: Desk[State]) -> None:
    asked = desk.turn(to_send(delivery()))
    decision = desk.turn(results=answered(asked, Accepted(("w1", "w2"))), now=NOW + 80)
    bound = decoded(decision.outputs, "bindings", Binding)
    assert [b.provider_message_id for b in bound[::2]] == ["w1", "w2"]
    assert {(b.delivery_id, b.home_partition, b.bound_at) for b in bound} == {("dlv-1", 0, NOW + 80)}
    assert bound[::2] == bound[1::2], "the same record twice"
    assert {(b.address, b.message_id) for b in bound} == {("15550001", "of-dlv-1")}
    keys = [b"whatsapp:acc-1:" + each for each in (b"w1", b"15550001", b"w2", b"15550001")]
    assert [(o.key, o.partition) for o in decision.outputs if o.topic == "bindings"] == [(key, None) for key in keys]
    (told_once,) = decoded(decision.outputs, "status-updates", StatusUpdate)
    assert told_once.provider_message_id == "w1"


def test_a_signal_is_sent_and_bound_to_nothing(desk: Desk[State]) -> None:
    asked = desk.turn(to_send(delivery(kind="typing", text="")))
    decision = desk.turn(results=answered(asked, Accepted(())), now=NOW + 80)
    assert reported(decision) == [(SENT, Cause.ACCEPTED)]
    (said,) = decoded(decision.outputs, "status-updates", StatusUpdate)
    assert said.provider_message_id is None
    assert [o.topic for o in decision.outputs] == ["status-updates"]
    assert not desk.rows("outstanding")


def test_a_signal_of_unknown_outcome_waits_for_no_evidence(desk: Desk[State]) -> None:
    asked = desk.turn(to_send(delivery(kind="mark_read", text="")))
    decision = desk.turn(results=answered(asked, Unknown("no answer")), now=NOW + 80)
    assert reported(decision) == [(PENDING, Cause.UNKNOWN), (PENDING, Cause.RESENT)]
    assert [row.phase for row in desk.rows("outstanding").values()] == [Phase.WAITING]


def test_a_rejection_reports_the_providers_code_and_text(desk: Desk[State]) -> None:
    asked = desk.turn(to_send(delivery()))
    (said,) = decoded(
        desk.turn(results=answered(asked, Rejected("131026", "no"))).outputs, "status-updates", StatusUpdate
    )
    assert (said.reason_code, said.reason) == ("131026", "no")


async def test_a_connector_that_raises_has_an_unknown_outcome() -> None:
    class Broken(Provider):
        async def send(self, delivery: Delivery, attempt: int, part: int = 0) -> Outcome:
            raise ValueError(f"{delivery.delivery_id}, {attempt}, {part}")

    stage = Send(connectors={"whatsapp": Broken("whatsapp", "hold")}, limits=LIMITS)
    outcome = await stage.perform(Call("dlv-1", Attempt(delivery(), 1)))
    assert outcome == Unknown("the connector failed: ValueError")
    assert not stage._in_flight


# --- retries ------------------------------------------------------------------------------------------------------------


def test_the_providers_wish_is_honoured_and_a_throttle_is_no_failure(desk: Desk[State]) -> None:
    decision = desk.turn(to_send(delivery()))
    now = NOW
    for attempt in range(1, 8):
        assert [call.request.number for call in decision.calls] == [attempt]
        assert desk.turn(results=answered(decision, THROTTLED), now=now).counts == {"throttled": 1}
        assert desk.due() == now + 7000
        assert not desk.turn(now=now + 6999).calls
        now += 7000
        decision = desk.turn(now=now)


def test_back_off_grows_with_failures_and_has_a_longest(desk: Desk[State]) -> None:
    desk = Desk(a_send(dataclasses.replace(LIMITS, attempts=30)))
    decision, now = desk.turn(to_send(delivery())), NOW
    for failure in range(1, 20):
        desk.turn(results=answered(decision, RetryLater("502", "502")), now=now)
        longest = min(LONGEST_BACKOFF_MS, FIRST_BACKOFF_MS << failure)
        due = desk.due()
        assert due is not None
        assert longest // 2 <= due - now <= longest
        now = due
        decision = desk.turn(now=now)


def test_two_deliveries_are_not_retried_at_the_same_moment(desk: Desk[State]) -> None:
    decision = desk.turn(to_send(*(delivery(f"dlv-{i}", address=str(i)) for i in range(4))))
    desk.turn(results=[Result(call, RetryLater("502", "502")) for call in decision.calls])
    assert len({row.not_before for row in desk.rows("outstanding").values()}) == 4


GIVEN_UP = {
    "failures": ("whatsapp", RetryLater("502", "502"), "502"),
    "answers that never came": ("telegram", Unknown("time-out"), "unknown"),
}


@pytest.mark.parametrize(("channel", "outcome", "code"), GIVEN_UP.values(), ids=GIVEN_UP)
def test_a_delivery_is_given_up_once_with_its_place_in_kafka(
    channel: str, outcome: Outcome, code: str, desk: Desk[State]
) -> None:
    sent = delivery(channel=channel)
    (source,) = to_send(sent)
    decision, now = desk.turn([source]), NOW
    for _ in range(LIMITS.attempts - 1):
        assert not desk.turn(results=answered(decision, outcome), now=now).refusals
        desk.restart(a_send())  # topic and offset are in the row, not in memory
        now = desk.rows("outstanding")[b"dlv-1"].not_before
        decision = desk.turn(now=now)
    last = desk.turn(results=answered(decision, outcome), now=now)
    assert reported(last)[-1] == (Status.FAILED, Cause.EXHAUSTED)
    assert refused(last) == ["attempts_exhausted"]
    assert "attempts_exhausted" in DESCRIPTIONS
    letter = last.refusals[0].record
    assert (letter.topic, letter.offset, letter.timestamp) == (source.topic, source.offset, source.timestamp)
    assert codec.decode(letter.value, Delivery) == sent
    said = decoded(last.outputs, "status-updates", StatusUpdate)[-1]
    assert said.reason_code == code
    assert not desk.changelog["outstanding"]


def test_all_lanes_of_a_throttled_account_wait_and_then_continue(desk: Desk[State]) -> None:
    first = desk.turn(to_send(delivery("a", address="1")))
    throttled = dataclasses.replace(THROTTLED, scope=Scope.ACCOUNT)
    more = to_send(
        delivery("b", address="2"), delivery("c", address="3", account="acc-2"), delivery("d", channel="telegram")
    )
    decision = desk.turn(more, answered(first, throttled))
    assert keys(decision) == ["c", "d"], "another account and another channel continue"
    desk.turn(results=[Result(call, Accepted(("x",))) for call in decision.calls])
    assert desk.due() == NOW + 7000
    assert not desk.turn(now=NOW + 6999).calls
    assert sorted(keys(desk.turn(now=NOW + 7000))) == ["a", "b"]


def test_only_the_throttled_pair_waits(desk: Desk[State]) -> None:
    first = desk.turn(to_send(delivery("a", address="1")))
    more = to_send(delivery("b", address="2"), delivery("c", address="1", seq=2))
    assert keys(desk.turn(more, answered(first, THROTTLED))) == ["b"]


# --- lanes --------------------------------------------------------------------------------------------------------------


def test_a_lane_has_one_call_in_flight_and_lanes_go_side_by_side(desk: Desk[State]) -> None:
    batch = to_send(
        delivery("a1", seq=1, address="a"), delivery("b1", seq=1, address="b"), delivery("a2", seq=2, address="a")
    )
    first = desk.turn(batch)
    assert keys(first) == ["a1", "b1"]
    assert keys(desk.turn(results=answered(first, Accepted(("x",)), place=1))) == []
    assert keys(desk.turn(results=answered(first, Accepted(("y",)), place=0))) == ["a2"]


def test_calls_are_bounded_and_the_longest_waiting_lane_is_next() -> None:
    desk = Desk(a_send(dataclasses.replace(LIMITS, concurrency=2)))
    first = desk.turn(to_send(*(delivery(f"{lane}{seq}", seq=seq, address=lane) for seq in (1, 2) for lane in "abc")))
    assert keys(first) == ["a1", "b1"]
    assert keys(desk.turn(results=answered(first, Accepted(("x",))))) == ["c1"], "not a2: lane c has waited longer"


def test_a_call_is_asked_for_together_with_its_intent(desk: Desk[State]) -> None:
    decision = desk.decide(to_send(delivery()))
    (row,) = desk.rows("outstanding").values()
    assert (row.phase, row.attempt, row.dispatched_at) == (Phase.CALLING, 1, NOW)
    assert [(call.key, call.request) for call in decision.calls] == [("dlv-1", Attempt(delivery(), 1))]
    assert [key for key, value in desk.tables["outstanding"].changes() if value] == [b"dlv-1"]


def test_a_late_delivery_does_not_overtake_a_call_in_flight(desk: Desk[State]) -> None:
    """A dead letter that was produced again, or a message to the same address under two names."""
    first = desk.turn(to_send(delivery("b", seq=7)))
    late = to_send(delivery("a", seq=3), delivery("c", seq=8), delivery("a2", seq=7))
    assert keys(desk.turn(late)) == []
    desk.reopen()  # the partition stays with its worker after a rebalance; its call continues
    order = []
    decision = desk.turn(results=answered(first, Accepted(("x",))))
    while decision.calls:
        order += keys(decision)
        decision = desk.turn(results=answered(decision, Accepted(("x",))))
    assert order == ["a", "a2", "c"]


def test_a_repeated_record_is_the_same_delivery(desk: Desk[State]) -> None:
    batch = to_send(delivery())
    first = desk.turn(batch)
    assert keys(first) == ["dlv-1"]
    assert keys(desk.turn(batch)) == []
    assert len(desk.changelog["outstanding"]) == 1


def test_deliveries_wait_in_kafka_above_the_bound_but_evidence_is_taken() -> None:
    desk = Desk(a_send(dataclasses.replace(LIMITS, outstanding=4, scheduled=0)))
    first = desk.turn(to_send(delivery("a", address="1"), delivery("b", address="2")))  # the share of one tenant
    assert not desk.stage.takes("deliveries.whatsapp", desk.state)
    assert desk.stage.takes("status-updates", desk.state)
    desk.turn(results=answered(first, Accepted(("x",))))
    assert desk.stage.takes("deliveries.whatsapp", desk.state)


def test_what_cannot_be_read_is_refused_and_the_rest_is_taken(desk: Desk[State]) -> None:
    junk = raw("deliveries.whatsapp", b"\x00\x00junk", offset=3)
    unread = raw("status-updates", b"junk")
    decision = desk.turn([junk, *to_send(delivery()), unread])
    assert refused(decision) == ["unknown_schema", "not_avro"]
    assert keys(decision) == ["dlv-1"]


def test_only_updates_of_what_is_outstanding_are_decoded(desk: Desk[State]) -> None:
    """Of any other update only the delivery id is read: a value that is cut off after it shows that."""
    desk.turn(to_send(delivery()))
    ours, other = (record("status-updates", update(delivery_id=name)) for name in ("dlv-1", "dlv-2"))
    cut = [each._replace(value=(each.value or b"")[:-1]) for each in (other, ours)]
    decision = desk.turn(cut)
    assert [(refusal.cause, refusal.record) for refusal in decision.refusals] == [("malformed_datum", cut[1])]


def test_a_delivery_outside_its_home_is_refused_and_never_called(desk: Desk[State]) -> None:
    stray = to_send(delivery(home_partition=3))
    decision = desk.turn(stray)
    assert refused(decision) == ["wrong_partition"]
    assert decision.refusals[0].record is stray[0]
    assert keys(decision) == []
    assert not desk.changelog["outstanding"]


# --- times --------------------------------------------------------------------------------------------------------------


def test_a_scheduled_delivery_waits_for_its_time_and_its_lane_does_not(desk: Desk[State]) -> None:
    decision = desk.turn(to_send(delivery("a", not_before=NOW + 500), delivery("b", seq=2), delivery("c", seq=3)))
    assert keys(decision) == ["b"]
    assert keys(desk.turn(now=NOW + 500)) == [], "behind the one in flight"
    order = []
    while decision.calls:
        decision = desk.turn(results=answered(decision, Accepted(("x",))), now=NOW + 501)
        order += keys(decision)
    assert order == ["a", "c"], "by sequence from when it is due"


def test_an_expired_delivery_ends_and_the_next_one_is_called(desk: Desk[State]) -> None:
    batch = to_send(delivery("a", expires_at=NOW), delivery("b", seq=2, expires_at=NOW + 1))
    decision = desk.turn(batch)
    assert reported(decision) == [(Status.EXPIRED, Cause.EXPIRED)]
    assert keys(decision) == ["b"]


LATE = {
    "scheduled after it ends": (delivery(not_before=NOW + 900, expires_at=NOW + 400), None),
    "throttled beyond its end": (delivery(expires_at=NOW + 400), THROTTLED),
    "behind a throttled account": (
        delivery(expires_at=NOW + 400),
        dataclasses.replace(THROTTLED, scope=Scope.ACCOUNT),
    ),
}


@pytest.mark.parametrize(("sent", "outcome"), LATE.values(), ids=LATE)
def test_a_delivery_ends_when_its_time_is_over_not_when_it_would_be_tried(
    sent: Delivery, outcome: Outcome | None, desk: Desk[State]
) -> None:
    decision = desk.turn(to_send(sent))
    if outcome is not None:
        desk.turn(results=answered(decision, outcome))
    assert waited(desk) == 400
    assert reported(desk.turn(now=NOW + 400)) == [(Status.EXPIRED, Cause.EXPIRED)]
    assert not desk.changelog["outstanding"]
    assert desk.due() is None


def test_an_attempt_in_flight_does_not_expire(desk: Desk[State]) -> None:
    asked = desk.turn(to_send(delivery(expires_at=NOW + 10)))
    assert reported(desk.turn(now=NOW + 20)) == []
    assert reported(desk.turn(results=answered(asked, Accepted(("x",))), now=NOW + 30)) == [(SENT, Cause.ACCEPTED)]


# --- unknown outcomes ---------------------------------------------------------------------------------------------------


def held(desk: Desk[State]) -> None:
    asked = desk.turn(to_send(delivery()))
    desk.turn(results=answered(asked, Unknown("time-out")))


def test_a_held_delivery_is_resent_only_after_the_hold(desk: Desk[State]) -> None:
    held(desk)
    assert waited(desk) == HOLD_MS
    assert reported(desk.turn(now=NOW + HOLD_MS - 1)) == []
    decision = desk.turn(now=NOW + HOLD_MS)
    assert reported(decision) == [(PENDING, Cause.RESENT)]
    due = desk.due()
    assert due is not None
    assert [call.request.number for call in desk.turn(now=due).calls] == [2]


PROOF = {
    "held": NOW + 10,
    "to be resent": NOW + HOLD_MS,
}


@pytest.mark.parametrize("at", PROOF.values(), ids=PROOF)
def test_evidence_ends_a_delivery_that_is(at: int, desk: Desk[State]) -> None:
    held(desk)
    desk.turn(now=at)
    decision = desk.turn([evidence()], now=at + 1)
    assert reported(decision) == [(SENT, Cause.ACCEPTED)]
    assert [b.provider_message_id for b in decoded(decision.outputs, "bindings", Binding)[::2]] == ["wamid-1"]
    assert not desk.changelog["outstanding"]
    assert desk.due() is None


LATER = {
    "accepted": Accepted(("wamid-2",)),
    "unknown": Unknown("time-out"),
    "throttled": THROTTLED,
    "failed for the last time": RetryLater("502", "502"),
    "rejected": Rejected("1", "no"),
}


@pytest.mark.parametrize("outcome", LATER.values(), ids=LATER)
def test_evidence_before_the_answer_decides_whatever_the_answer(outcome: Outcome, desk: Desk[State]) -> None:
    desk = Desk(a_send(dataclasses.replace(LIMITS, attempts=1)))
    asked = desk.turn(to_send(delivery()))
    assert reported(desk.turn([evidence()])) == []
    decision = desk.turn(results=answered(asked, outcome))
    assert reported(decision) == [(SENT, Cause.ACCEPTED)]
    expected = "wamid-2" if isinstance(outcome, Accepted) else "wamid-1"
    assert [b.provider_message_id for b in decoded(decision.outputs, "bindings", Binding)[::2]] == [expected]
    assert not decision.refusals


NO_PROOF = {
    "our own update": evidence(cause=Cause.UNKNOWN, status=Status.PENDING),
    "a receipt without the provider's id": evidence(provider_message_id=None),
    "a receipt of another delivery": evidence("dlv-9"),
    "a receipt of another tenant": evidence(tenant_id="acme"),
}


@pytest.mark.parametrize("proves_nothing", NO_PROOF.values(), ids=NO_PROOF)
def test_what_proves_nothing_changes_nothing(proves_nothing: Record, desk: Desk[State]) -> None:
    held(desk)
    before = dict(desk.changelog["outstanding"])
    assert reported(desk.turn([proves_nothing])) == []
    assert desk.changelog["outstanding"] == before


# --- parts --------------------------------------------------------------------------------------------------------------


def half_sent(desk: Desk[State]) -> Decision:
    """The first of two parts was accepted in the second attempt; returns the turn that starts the second part."""
    asked = desk.turn(to_send(delivery(text="one|two"), delivery("next", seq=2)))
    assert [call.request.part for call in asked.calls] == [0]
    desk.turn(results=answered(asked, THROTTLED))
    asked = desk.turn(now=NOW + 7000)
    assert [(call.request.number, call.request.part) for call in asked.calls] == [(2, 0)]
    return desk.turn(results=answered(asked, Accepted(("w1",))))


def test_parts_are_sent_in_order_and_the_last_one_moves_the_delivery(desk: Desk[State]) -> None:
    decision = half_sent(desk)
    assert reported(decision) == [(PENDING, Cause.ACCEPTED)]
    assert [(call.key, call.request.number, call.request.part) for call in decision.calls] == [("dlv-1", 3, 1)]
    last = desk.turn(results=answered(decision, Accepted(("w2",))))
    assert reported(last) == [(SENT, Cause.ACCEPTED)]
    assert keys(last) == ["next"]
    bound = [
        (b.provider_message_id, b.partial) for b in decoded(decision.outputs + last.outputs, "bindings", Binding)[::2]
    ]
    assert bound == [("w1", True), ("w2", False)]


NOT_TAKEN = {"throttled": THROTTLED, "broken": RetryLater("502", "502"), "unknown": Unknown("time-out"), "lost": None}


@pytest.mark.parametrize("outcome", NOT_TAKEN.values(), ids=NOT_TAKEN)
def test_a_part_that_was_taken_is_never_sent_again(outcome: Outcome | None, desk: Desk[State]) -> None:
    decision = half_sent(desk)
    if outcome is None:
        desk.restart(a_send())
        desk.turn()
    else:
        desk.turn(results=answered(decision, outcome))
    for _ in range(3):  # the hold, the back-off after it, the call
        calls = desk.turn(now=desk.due() or NOW).calls
        if calls:
            break
    assert [(call.key, call.request.part) for call in calls] == [("dlv-1", 1)]


def test_a_rejected_part_fails_the_delivery_whatever_was_taken_before(desk: Desk[State]) -> None:
    decision = desk.turn(results=answered(half_sent(desk), Rejected("100", "no")))
    assert reported(decision) == [(FAILED, Cause.REJECTED)]
    assert keys(decision) == ["next"]


def test_a_receipt_of_an_earlier_part_proves_nothing_about_the_next(desk: Desk[State]) -> None:
    desk.turn(results=answered(half_sent(desk), Unknown("time-out")))
    assert reported(desk.turn([evidence(attempt=0), evidence(attempt=1), evidence(attempt=2)])) == []
    assert reported(desk.turn([evidence(attempt=3, provider_message_id="w2")])) == [(SENT, Cause.ACCEPTED)]


def test_evidence_of_a_part_sends_the_next_one(desk: Desk[State]) -> None:
    asked = desk.turn(to_send(delivery(text="one|two")))
    desk.turn(results=answered(asked, Unknown("time-out")))
    decision = desk.turn([evidence(attempt=1)])
    assert reported(decision) == [(PENDING, Cause.ACCEPTED)]
    assert [(call.request.number, call.request.part) for call in decision.calls] == [(2, 1)]
    assert desk.due() is None


# --- restarts -----------------------------------------------------------------------------------------------------------


class Interrupted(NamedTuple):
    channel: str
    reported: list[tuple[Status, Cause]]
    phase: Phase | None


INTERRUPTED = (
    Interrupted("whatsapp", [(PENDING, Cause.UNKNOWN)], Phase.HELD),
    Interrupted("telegram", RESENT, Phase.WAITING),
    Interrupted("internal", [(FAILED, Cause.UNKNOWN)], None),
)


@pytest.mark.parametrize("case", INTERRUPTED, ids=lambda case: case.channel)
def test_an_intent_without_a_result_is_unknown_at_once(case: Interrupted, desk: Desk[State]) -> None:
    desk.turn(to_send(delivery(channel=case.channel), delivery("next", channel=case.channel, seq=2)))
    desk.restart(a_send())
    assert (desk.due() or 0) <= NOW
    decision = desk.turn()
    assert reported(decision) == case.reported
    assert keys(decision) == (["next"] if case.phase is None else [])
    row = desk.rows("outstanding").get(b"dlv-1")
    assert (row and row.phase) == case.phase
    assert reported(desk.turn()) == [], "once"


def test_evidence_that_waits_in_kafka_is_weighed_before_an_intent_is_unknown(desk: Desk[State]) -> None:
    desk.turn(to_send(delivery(channel="telegram")))
    desk.restart(a_send())
    assert reported(desk.turn([evidence()])) == [(SENT, Cause.ACCEPTED)]
    desk.turn(to_send(delivery("b")))
    desk.turn([evidence("b")])
    desk.restart(a_send())
    assert reported(desk.turn()) == [(SENT, Cause.ACCEPTED)], "evidence in the row survives the worker"


WAITING = {
    "a delivery never tried": (delivery(), None, 0),
    "a retry": (delivery(), THROTTLED, 7000),
    "a scheduled delivery": (delivery(not_before=NOW + 500), None, 500),
    "a held one": (delivery(), Unknown("time-out"), HOLD_MS),
}


@pytest.mark.parametrize(("sent", "outcome", "wait"), WAITING.values(), ids=WAITING)
def test_no_delivery_waits_for_a_record_after_a_restart(
    sent: Delivery, outcome: Outcome | None, wait: int, desk: Desk[State]
) -> None:
    if outcome is None:
        desk.turn(to_send(sent), closing=True)
    else:
        desk.turn(results=answered(desk.turn(to_send(sent)), outcome))
    desk.restart(a_send())
    due = desk.due()
    assert due is not None, "nothing else would wake the partition"
    assert due <= NOW + wait
    desk.turn()
    if wait:
        assert waited(desk) == wait
    else:
        assert desk.rows("outstanding")[b"dlv-1"].phase is Phase.CALLING


def test_closing_commits_results_and_starts_nothing(desk: Desk[State]) -> None:
    first = desk.turn(to_send(delivery("a"), delivery("b", seq=2)))
    decision = desk.turn(results=answered(first, Accepted(("x",))), closing=True)
    assert reported(decision) == [(SENT, Cause.ACCEPTED)]
    assert keys(decision) == []
    desk.reopen()
    assert (desk.due() or 0) <= NOW
    assert keys(desk.turn()) == ["b"]


STILL_GOOD = {
    "accepted": (Accepted(("x",)), [(SENT, Cause.ACCEPTED)], 0),
    "throttled": (THROTTLED, [(PENDING, Cause.RETRY_LATER)], 1),
    "unknown": (Unknown("time-out"), RESENT, 1),
}


@pytest.mark.parametrize(("outcome", "expected", "left"), STILL_GOOD.values(), ids=STILL_GOOD)
def test_a_result_that_waited_while_the_state_was_derived_again_is_taken_once(
    outcome: Outcome, expected: list[tuple[Status, Cause]], left: int, desk: Desk[State]
) -> None:
    asked = desk.turn(to_send(delivery(channel="telegram")))
    desk.reopen()
    decision = desk.turn(results=answered(asked, outcome))
    assert reported(decision) == expected
    assert len(desk.changelog["outstanding"]) == left
