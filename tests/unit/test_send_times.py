"""What stage send says of the times of a delivery: since when it was the first of its lane, whether it was throttled, and when it is
tried again."""

import dataclasses
from typing import NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.stage import Call, Decision, Record, Result
from pipelines.send import UNCONFIGURED_MS, Send
from pipelines.send_state import SendLimits, State, backoff
from schemas.outcomes import Accepted, Outcome, Rejected, RetryLater, Scope, Unknown
from schemas.records import Cause, Delivery, Status, StatusUpdate
from tables.lanes import Lanes, lane_of
from tables.outstanding import OUTSTANDING, Outstanding
from tests.support.builders import NOW, Desk, decoded, delivery, examples, numbered, record
from tests.support.counting_provider import Provider

HOLD_MS = 60_000
LIMITS = SendLimits(concurrency=8, outstanding=50, attempts=3, hold_ms=HOLD_MS)
POLICIES = {"whatsapp": "hold", "telegram": "resend", "internal": "fail"}
OK = Accepted(("wamid-1",))
BROKEN = RetryLater("broken", "502", after_seconds=1.0)
FAST = RetryLater("too fast", "429", after_seconds=7.0, throttled=True)


def a_send(*, concurrency: int = 8, attempts: int = 3, without: str = "") -> Send:
    limits = dataclasses.replace(LIMITS, concurrency=concurrency, attempts=attempts)
    return Send(connectors={n: Provider(n, policy) for n, policy in POLICIES.items() if n != without}, limits=limits)


@pytest.fixture
def desk() -> Desk[State]:
    return Desk(a_send())


def to_send(*deliveries: Delivery, start: int = 0) -> list[Record]:
    return numbered([record(f"deliveries.{each.channel}", each) for each in deliveries], start)


def updates(decision: Decision) -> list[StatusUpdate]:
    return decoded(decision.outputs, "status-updates", StatusUpdate)


def answers(decision: Decision, outcome: Outcome = OK) -> list[Result]:
    return [Result(call, outcome) for call in decision.calls]


def at_once(delivery_id: str, seq: int, address: str = "1", **changes: object) -> Delivery:
    return delivery(delivery_id, seq=seq, address=address, **changes)


# --- the first of its lane ------------------------------------------------------------------------------------------------


def test_in_an_empty_lane_it_is_the_first_when_it_is_taken_and_then_waits_for_a_free_call() -> None:
    desk = Desk(a_send(concurrency=1))
    asked = desk.turn(to_send(at_once("a", 1, "1"), at_once("b", 2, "2")))
    second = desk.turn(results=answers(asked), now=NOW + 80)
    assert [(u.ready_at, u.dispatched_at) for u in updates(second)] == [(NOW, NOW)]
    (last,) = updates(desk.turn(results=answers(second), now=NOW + 90))
    assert (last.delivery_id, last.ready_at, last.dispatched_at) == ("b", NOW, NOW + 80)


def test_behind_another_it_is_the_first_when_that_one_ends(desk: Desk[State]) -> None:
    """At the time of the provider's answer, not at the time of the turn that takes it."""
    asked = desk.turn(to_send(at_once("a", 1), at_once("b", 2)))
    second = desk.turn(results=[Result(asked.calls[0], OK, at=NOW + 70)], now=NOW + 80)
    (first,) = updates(second)
    (last,) = updates(desk.turn(results=answers(second), now=NOW + 95))
    assert (last.ready_at, last.dispatched_at) == (first.occurred_at, NOW + 80) == (NOW + 70, NOW + 80)


def test_a_scheduled_delivery_is_the_first_when_its_time_has_come(desk: Desk[State]) -> None:
    desk.turn(to_send(at_once("a", 1, not_before=NOW + 5000)))
    asked = desk.turn(now=NOW + 5010)
    (update,) = updates(desk.turn(results=answers(asked), now=NOW + 5050))
    assert (update.ready_at, update.dispatched_at) == (NOW + 5010, NOW + 5010)


def test_who_comes_before_a_head_that_was_not_called_is_the_first_from_then_on() -> None:
    desk = Desk(a_send(concurrency=1))
    busy = desk.turn(to_send(at_once("busy", 1, "other"), at_once("b", 5)))
    assert desk.turn(to_send(at_once("a", 4), start=2), now=NOW + 10).calls == []
    asked = desk.turn(results=answers(busy), now=NOW + 20)
    asked_b = desk.turn(results=answers(asked), now=NOW + 30)
    assert [call.key for call in (*asked.calls, *asked_b.calls)] == ["a", "b"]
    (update,) = updates(desk.turn(results=answers(asked_b), now=NOW + 40))
    assert update.ready_at == NOW + 30, "it was the first before; that is not what it waited for in the end"


def test_the_first_attempt_fixes_it_for_all_attempts_and_workers(desk: Desk[State]) -> None:
    decision, now = desk.turn(to_send(at_once("a", 1))), NOW
    said: list[StatusUpdate] = []
    for outcome in (FAST, BROKEN, OK):
        said += updates(desk.turn(results=answers(decision, outcome), now=now))
        desk.restart(a_send())
        now += 7000
        decision = desk.turn(now=now)
    assert [(u.attempt, u.ready_at, u.dispatched_at) for u in said] == [
        (1, NOW, NOW),
        (2, NOW, NOW + 7000),
        (3, NOW, NOW + 14_000),
    ]


def test_after_a_restart_what_had_no_attempt_is_the_first_since_the_first_turn() -> None:
    """Nobody knows it better: only an attempt writes it down. It does not wait for its call again in this."""
    desk = Desk(a_send(concurrency=1))
    desk.turn(to_send(at_once("busy", 1, "other"), at_once("a", 2), at_once("b", 3)))
    desk.restart(a_send(concurrency=1))
    held = desk.turn(now=NOW + 1000)
    assert [update.cause for update in updates(held)] == [Cause.UNKNOWN]
    assert [call.key for call in held.calls] == ["a"]
    asked = desk.turn(results=answers(held), now=NOW + 1100)
    assert [update.ready_at for update in updates(asked)] == [NOW + 1000]
    assert [u.ready_at for u in updates(desk.turn(results=answers(asked), now=NOW + 1200))] == [NOW + 1100]


def test_a_clock_that_goes_back_makes_no_call_before_its_delivery_was_the_first() -> None:
    desk = Desk(a_send(concurrency=1))
    busy = desk.turn(to_send(at_once("busy", 1, "other"), at_once("a", 2)))
    asked = desk.turn(results=answers(busy), now=NOW - 5000)
    (update,) = updates(desk.turn(results=answers(asked), now=NOW - 4000))
    assert (update.delivery_id, update.ready_at, update.dispatched_at) == ("a", NOW - 5000, NOW - 5000)


def test_what_ends_without_an_attempt_says_whether_it_was_the_first() -> None:
    desk = Desk(a_send(concurrency=1))
    life = {"expires_at": NOW + 500}
    desk.turn(to_send(at_once("busy", 1, "other"), at_once("a", 2, **life), at_once("b", 3, **life)))
    asked = desk.turn(to_send(at_once("later", 4, not_before=NOW + 400, **life), start=3), now=NOW + 20)
    assert not asked.calls
    ended = {u.delivery_id: (u.cause, u.ready_at, u.attempt) for u in updates(desk.turn(now=NOW + 500))}
    assert ended == {
        "a": (Cause.EXPIRED, NOW, 0),
        # ended in the same turn as the one before it
        "b": (Cause.EXPIRED, NOW + 500, 0),
        # it never was in its lane
        "later": (Cause.EXPIRED, None, 0),
    }
    desk.turn(to_send(at_once("c", 5, "other", expires_at=NOW + 900), start=4), now=NOW + 600)
    (update,) = updates(desk.turn(now=NOW + 900))
    assert (update.delivery_id, update.ready_at) == ("c", None), "behind one that is called"


def test_a_row_of_the_release_before_is_read_and_says_that_it_does_not_know(desk: Desk[State]) -> None:
    row = Outstanding(at_once("a", 1), ("deliveries.whatsapp", 0, NOW), attempt=1, dispatched_at=NOW - 9000)
    head, _, frame = OUTSTANDING.encode(row).partition(b"\n")
    fields = orjson.loads(head)
    del fields["ready_at"]
    desk.changelog["outstanding"][b"a"] = orjson.dumps(fields) + b"\n" + frame
    desk.restart(a_send())
    asked = desk.turn(now=NOW)
    (update,) = updates(desk.turn(results=answers(asked), now=NOW + 50))
    assert (update.attempt, update.ready_at, update.dispatched_at) == (2, None, NOW)


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "remove", "call", "start again"]),
        st.sampled_from("xy"),
        st.integers(0, 5),
        st.integers(-20, 100),
    ),
    max_size=40,
)


@examples(200)
@given(steps=_STEPS)
def test_since_when_a_delivery_is_the_head_is_what_a_plain_list_says(steps: list[tuple[str, str, int, int]]) -> None:
    lanes, lines, called, now = Lanes(), dict[str, list[Delivery]](x=[], y=[]), dict[str, str](), NOW
    heads: dict[str, tuple[str, int]] = {}  # of a lane: its head, and since when
    lanes.look(now)
    for number, (step, name, place, passed) in enumerate(steps):
        now += passed
        line = lines[name]
        if step == "add":
            added = at_once(f"{name}{number}", place, name)
            lanes.add(added, now)
            line.append(added)
        elif step == "remove" and line:
            gone = line.pop(place % len(line))
            lanes.remove(gone, now)
            if called.get(name) == gone.delivery_id:
                del called[name]
        elif step == "call" and line:
            lanes.begin(lane_of(line[0]))
            called[name] = line[0].delivery_id
        elif step == "start again":
            lanes = Lanes()
            for each in [*lines["x"], *lines["y"]]:
                lanes.add(each, None)
                if each.delivery_id in called.values():
                    lanes.begin(lane_of(each))
            assert all(lanes.since(each) is None for each in [*lines["x"], *lines["y"]])
            lanes.look(now)
            lanes.look(now + 1)
            heads = {lane: (head, now) for lane, (head, _) in heads.items()}
        # an attempt makes a head stay the head
        line.sort(key=lambda each: (called.get(name) != each.delivery_id, each.seq, each.delivery_id))
        if not line:
            heads.pop(name, None)
        elif heads.get(name, ("", 0))[0] != line[0].delivery_id:
            heads[name] = (line[0].delivery_id, now)
        for lane, others in lines.items():
            assert [lanes.since(each) for each in others] == [
                heads[lane][1] if each is others[0] else None for each in others
            ]


# --- the next attempt -----------------------------------------------------------------------------------------------------


class Tried(NamedTuple):
    label: str
    channel: str
    outcome: Outcome
    expected: list[tuple[Cause, bool, int | None]]  # cause, throttled, and milliseconds until the next attempt
    expires_at: int | None = None


# of the delivery `a` after its first attempt
_ROW = Outstanding(at_once("a", 1), ("", 0, 0), attempt=1)
TRIED = (
    Tried("accepted", "whatsapp", OK, [(Cause.ACCEPTED, False, None)]),
    Tried("rejected", "whatsapp", Rejected("131026", "no"), [(Cause.REJECTED, False, None)]),
    Tried("throttled", "whatsapp", FAST, [(Cause.RETRY_LATER, True, 7000)]),
    Tried("with the account", "whatsapp", dataclasses.replace(FAST, scope=Scope.ACCOUNT), [(Cause.RETRY_LATER, True, 7000)]),
    Tried("broken", "whatsapp", BROKEN, [(Cause.RETRY_LATER, False, 1000)]),
    Tried("broken, our own wait", "whatsapp", RetryLater("502", "502"), [(Cause.RETRY_LATER, False, backoff(_ROW, 1))]),
    Tried("far away", "whatsapp", dataclasses.replace(FAST, after_seconds=1e300), [(Cause.RETRY_LATER, True, 7 * 86_400_000)]),
    Tried("held", "whatsapp", Unknown("time-out"), [(Cause.UNKNOWN, False, HOLD_MS)]),
    Tried("resent", "telegram", Unknown("time-out"), [(Cause.UNKNOWN, False, None), (Cause.RESENT, False, backoff(_ROW, 0))]),
    Tried("given up", "internal", Unknown("time-out"), [(Cause.UNKNOWN, False, None)]),
    Tried("over by then", "whatsapp", FAST, [(Cause.RETRY_LATER, True, None)], NOW + 7080),
    Tried("just not over by then", "whatsapp", FAST, [(Cause.RETRY_LATER, True, 7000)], NOW + 7081),
    Tried("over while it is held", "whatsapp", Unknown("time-out"), [(Cause.UNKNOWN, False, None)], NOW + 9000),
)  # fmt: skip  # one case a line


@pytest.mark.parametrize("case", TRIED, ids=lambda case: case.label)
def test_an_update_says_when_the_next_attempt_may_start(case: Tried, desk: Desk[State]) -> None:
    asked = desk.turn(to_send(at_once("a", 1, channel=case.channel, expires_at=case.expires_at)))
    found = updates(desk.turn(results=answers(asked, case.outcome), now=NOW + 80))
    after = [(u.cause, u.throttled, None if u.retry_at is None else u.retry_at - NOW - 80) for u in found]
    assert after == case.expected
    retry_at = found[-1].retry_at
    if retry_at is not None and found[-1].cause is not Cause.UNKNOWN:
        assert not desk.turn(now=retry_at - 1).calls
        assert desk.turn(now=retry_at).calls


def test_an_attempt_waits_for_its_account_too(desk: Desk[State]) -> None:
    """One pair has to wait a second; its account has been throttled for seven meanwhile."""
    asked = desk.turn(to_send(at_once("a", 1, "1"), at_once("b", 2, "2")))
    all_of_them = dataclasses.replace(FAST, scope=Scope.ACCOUNT)
    outcomes = {"a": all_of_them, "b": BROKEN}
    found = updates(desk.turn(results=[Result(call, outcomes[call.key]) for call in asked.calls], now=NOW + 80))
    assert [(u.delivery_id, u.throttled, u.retry_at) for u in found] == [
        ("a", True, NOW + 7080),
        ("b", False, NOW + 7080),
    ]
    assert not desk.turn(now=NOW + 7079).calls
    assert {call.key for call in desk.turn(now=NOW + 7080).calls} == {"a", "b"}


@pytest.mark.parametrize("channel", ["whatsapp", "telegram"])
def test_after_the_last_attempt_none_follows(channel: str) -> None:
    desk = Desk(a_send(attempts=1))
    asked = desk.turn(to_send(at_once("a", 1, channel=channel)))
    found = updates(desk.turn(results=answers(asked, Unknown("time-out")), now=NOW + 80))
    found += updates(desk.turn(now=NOW + 80 + HOLD_MS))
    assert [(u.cause, u.retry_at) for u in found] == [(Cause.UNKNOWN, None), (Cause.EXHAUSTED, None)]


def test_a_throttle_that_is_the_last_says_so() -> None:
    """Only where the worker allows fewer attempts than the one before it did."""
    desk = Desk(a_send(attempts=5))
    decision, now = desk.turn(to_send(at_once("a", 1))), NOW
    for _ in range(2):
        desk.turn(results=answers(decision, BROKEN), now=now)
        now += 1000
        decision = desk.turn(now=now)
    call: Call = decision.calls[0]
    desk.stage = a_send(attempts=2)
    (update,) = updates(desk.turn(results=[Result(call, FAST)], now=now))
    assert (update.status, update.cause, update.throttled) == (Status.FAILED, Cause.EXHAUSTED, True)
    assert update.retry_at is None


def test_what_is_held_on_a_channel_that_nobody_has_is_tried_at_no_fixed_time(desk: Desk[State]) -> None:
    desk.turn(to_send(at_once("a", 1)))
    desk.restart(a_send(without="whatsapp"))
    (update,) = updates(desk.turn(now=NOW + 80))
    assert (update.cause, update.retry_at, update.ready_at) == (Cause.UNKNOWN, None, NOW)
    assert not updates(desk.turn(now=NOW + 80 + HOLD_MS + UNCONFIGURED_MS))
