"""Stage send with several tenants, distant times and full bounds: no tenant waits for another's deliveries, and turns stay bounded."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.stage import Call, Decision, Record, Result
from pipelines.send import DUE_PER_TURN, LOOKS_PER_TURN, Send
from pipelines.send_state import SendLimits, State
from schemas import codec
from schemas.causes import DESCRIPTIONS
from schemas.outcomes import Accepted, Outcome, Rejected, RetryLater, Scope, Unknown
from schemas.records import Cause, Delivery, Status, StatusUpdate
from tables.outstanding import OUTSTANDING, Outstanding
from tables.stores.memory import MemoryTable
from tests.support.builders import NOW, Desk, decoded, delivery, examples, numbered, record, refused
from tests.support.counting_provider import Provider

DAY_MS = 86_400_000
LIMITS = SendLimits(concurrency=64, outstanding=20_000, attempts=3, hold_ms=60_000)  # the settings' defaults
ACCOUNT_THROTTLED = RetryLater("all of you", "429", after_seconds=7.0, throttled=True, scope=Scope.ACCOUNT)


def a_send(limits: SendLimits = LIMITS) -> Send:
    return Send(connectors={"whatsapp": Provider("whatsapp", "hold")}, limits=limits)


def a_desk(**limits: int) -> Desk[State]:
    return Desk(a_send(dataclasses.replace(LIMITS, **limits)))


def many(number: int, name: str = "a", **changes: Any) -> list[Record]:
    """Deliveries of one tenant's message to many people, as route makes them."""
    fields = {"tenant_id": name, "account": f"of-{name}"} | changes
    return to_send(*(delivery(f"{name}{i}", address=f"{name}{i}", **fields) for i in range(number)))


def to_send(*deliveries: Delivery) -> list[Record]:
    return numbered([record("deliveries.whatsapp", each) for each in deliveries])


def one(name: str = "b", **changes: Any) -> list[Record]:
    return to_send(delivery(name, **({"tenant_id": name, "account": f"of-{name}", "address": name} | changes)))


def keys(decision: Decision) -> list[str]:
    return [call.key for call in decision.calls]


def statuses(decision: Decision) -> Counter[Status]:
    return Counter(each.status for each in decoded(decision.outputs, "status-updates", StatusUpdate))


def taken(desk: Desk[State], records: Sequence[Record], now: int = NOW) -> list[Decision]:
    """Gives the records to turns as the stage takes them; it must take them all."""
    turns = []
    for start in range(0, len(records), desk.stage.turn_records):
        assert desk.stage.takes("deliveries.whatsapp", desk.state)
        turns.append(desk.turn(records[start : start + desk.stage.turn_records], now=now))
    return turns


# --- nobody waits for another ---------------------------------------------------------------------------------------------


def test_far_schedules_hold_up_nobody() -> None:
    desk = a_desk()
    for message in ("one", "two"):
        later = [
            delivery(f"{message}{i}", tenant_id="a", address=f"{i}", not_before=NOW + 30 * DAY_MS)
            for i in range(12_000)
        ]
        assert [keys(turn) for turn in taken(desk, to_send(*later))] == [[]] * 12
    (turn,) = taken(desk, one())
    assert keys(turn) == ["b"]
    desk.restart(a_send())
    assert desk.stage.takes("deliveries.whatsapp", desk.state)
    assert keys(desk.turn(one("c"))) == ["c"]


def test_a_message_overtakes_scheduled_ones_in_its_lane() -> None:
    desk = a_desk()
    desk.turn(to_send(delivery("later", not_before=NOW + DAY_MS)))
    desk.restart(a_send())
    assert keys(desk.turn(to_send(delivery("now", seq=2)))) == ["now"]


def test_twenty_thousand_lanes_of_one_tenant_delay_another_by_no_turn() -> None:
    desk = a_desk()
    first = taken(desk, many(20_000))[0]
    assert len(first.calls) == LIMITS.calls_of_a_tenant < LIMITS.concurrency
    (turn,) = taken(desk, one())
    assert keys(turn) == ["b"]
    answered = desk.turn(
        to_send(*(delivery(f"c{i}", tenant_id="c", address=f"{i}") for i in range(99))),
        [Result(call, Accepted(("x",))) for call in first.calls],
    )
    tenants = Counter(call.request.delivery.tenant_id for call in answered.calls)
    assert abs(tenants["a"] - tenants["c"]) <= 8, "in equal shares, except for the calls that one tenant cannot have"


def test_the_lanes_of_an_account_that_is_throttled_are_not_looked_at_and_hold_up_no_other() -> None:
    desk = a_desk()
    rows = desk.tables["outstanding"] = Counted(OUTSTANDING)  # type: ignore[index]  # a Mapping to the stages, a dict here
    desk.state = desk.stage.open(0, desk.tables)
    calls = taken(desk, many(10_000))[0].calls
    desk.turn(results=[Result(call, ACCOUNT_THROTTLED) for call in calls])
    assert desk.due() == NOW + 7000
    rows.gets = 0
    assert keys(desk.turn(many(1, tenant_id="a", name="other-account"))) == ["other-account0"]
    assert keys(desk.turn(one())) == ["b"]
    assert rows.gets < 10
    for minute in range(1, 4):  # throttled repeatedly
        rows.gets = 0
        due = desk.due()
        assert due is not None
        calls = desk.turn(now=due).calls
        assert len(calls) == LIMITS.calls_of_a_tenant - 1, minute  # one is in flight
        assert not desk.turn(results=[Result(call, ACCOUNT_THROTTLED) for call in calls], now=due).calls
        assert rows.gets < 8 * LIMITS.concurrency


def throttled(seconds: float) -> RetryLater:
    return dataclasses.replace(ACCOUNT_THROTTLED, after_seconds=seconds)


def test_a_throttled_account_continues_when_nothing_else_is_due() -> None:
    desk = a_desk()
    first = desk.turn(to_send(delivery("a", address="1", expires_at=NOW + 10)))
    desk.turn(to_send(delivery("b", address="2")), [Result(first.calls[0], throttled(7))])
    assert statuses(desk.turn(now=NOW + 10)) == {Status.EXPIRED: 1}
    assert desk.due() == NOW + 7000
    assert keys(desk.turn(now=NOW + 7000)) == ["b"]


def test_a_shorter_throttle_does_not_end_a_longer_one() -> None:
    desk = a_desk()
    calls = desk.turn(to_send(delivery("a", address="1"), delivery("b", address="2"))).calls
    desk.turn(results=[Result(calls[0], throttled(7)), Result(calls[1], throttled(1))])
    assert keys(desk.turn(to_send(delivery("c", address="3")), now=NOW + 1000)) == []
    assert keys(desk.turn(now=NOW + 6999)) == []
    assert sorted(keys(desk.turn(now=NOW + 7000))) == ["a", "b", "c"]


def test_a_lane_continues_with_another_account_when_its_throttled_head_ends() -> None:
    desk = a_desk()
    (call,) = desk.turn(to_send(delivery("other", address="9"))).calls
    lane = to_send(delivery("1", seq=1, expires_at=NOW + 10), delivery("2", seq=2, account="acc-2"))
    assert keys(desk.turn(lane, [Result(call, throttled(7))])) == []
    assert keys(desk.turn(now=NOW + 10)) == ["2"]


class Counted(MemoryTable[Outstanding]):
    """Counts reads of rows."""

    gets = 0

    def get(self, key: bytes) -> Outstanding | None:
        self.gets += 1
        return super().get(key)


_MADE = st.fixed_dictionaries(
    {
        "address": st.sampled_from("pqrstuvwxyz"),
        "account": st.sampled_from(["1", "2"]),
        "not_before": st.sampled_from([None, None, NOW + 1, NOW + 700, NOW + 30 * DAY_MS]),
        "expires_at": st.sampled_from([None, None, NOW, NOW + 300]),
    }
)
_ANSWERS: tuple[Outcome | None, ...] = (
    None,
    ACCOUNT_THROTTLED,
    Unknown("time-out"),
    RetryLater("502", "502"),
    Rejected("1", "no"),
    Accepted(("x",)),
)
_STEPS = st.lists(
    st.tuples(
        st.lists(_MADE, max_size=12), st.sampled_from(_ANSWERS), st.sampled_from([0, 1, 700, 7000]), st.booleans()
    ),
    min_size=1,
    max_size=12,
)


@examples(150)
@given(steps=_STEPS)
def test_whatever_one_tenant_does_another_is_called_at_once(
    steps: list[tuple[list[dict[str, Any]], Outcome | None, int, bool]],
) -> None:
    desk = a_desk(concurrency=8, outstanding=400, scheduled=40)
    now, of_a = NOW, list[Call]()
    for number, (made, answer, wait, is_closed) in enumerate(steps):
        now += wait
        batch = [delivery(f"a{number}-{i}", seq=number, tenant_id="a", **each) for i, each in enumerate(made)]
        results = [] if answer is None else [Result(call, answer) for call in of_a]
        of_a = of_a if answer is None else []
        assert desk.stage.takes("deliveries.whatsapp", desk.state)
        b = delivery(f"b{number}", tenant_id="b", address=f"{number}", account="of-b")
        turn = desk.turn(to_send(*batch, b), results, now)
        assert f"b{number}" in keys(turn)
        done = [Result(call, Accepted(("y",))) for call in turn.calls if call.request.delivery.tenant_id == "b"]
        of_a += [call for call in turn.calls if call.request.delivery.tenant_id == "a"]
        of_a += desk.turn(results=done, now=now).calls
        if is_closed:
            desk.restart(a_send(desk.stage._limits))  # type: ignore[attr-defined]  # a Send
            of_a = []


# --- a turn is bounded ----------------------------------------------------------------------------------------------------


def test_many_that_are_due_at_one_moment_come_in_turns_and_another_tenant_with_the_first() -> None:
    desk = a_desk()
    at = NOW + 60_000
    taken(desk, many(3 * DUE_PER_TURN, not_before=at))
    taken(desk, one(not_before=at))
    turn = desk.turn(now=at)
    assert "b" in keys(turn)
    entered = [not row.is_scheduled for row in desk.rows("outstanding").values()]
    assert DUE_PER_TURN // 2 <= sum(entered) <= DUE_PER_TURN
    assert desk.due() == at
    for _ in range(6):
        desk.turn(now=at)
    assert not any(row.is_scheduled for row in desk.rows("outstanding").values())


@pytest.mark.parametrize("apart", [True, False], ids=["in lanes of their own", "in one lane"])
def test_many_that_are_over_at_one_moment_end_in_turns(apart: bool) -> None:
    desk = a_desk(concurrency=1)
    number = 2 * (DUE_PER_TURN + LOOKS_PER_TURN)
    over = [delivery(f"d{i}", seq=i, address=f"{i}" if apart else "1", expires_at=NOW + 5) for i in range(number)]
    (call,) = taken(desk, to_send(*over))[0].calls
    expired = 0
    desk.turn(results=[Result(call, RetryLater("502", "502"))])
    desk.turn(now=NOW + 4)
    while (due := desk.due()) is not None and due <= NOW + 5:
        turn = desk.turn(now=NOW + 5)
        assert 0 < statuses(turn)[Status.EXPIRED] <= DUE_PER_TURN + LOOKS_PER_TURN
        expired += statuses(turn)[Status.EXPIRED]
    assert expired == number - len(desk.running)


def test_deliveries_of_one_lane_that_are_due_at_one_moment_are_sent_in_sequence() -> None:
    desk = a_desk()
    at = NOW + 60_000
    desk.turn(to_send(*(delivery(f"{seq}", seq=seq, not_before=at) for seq in (5, 1, 4, 2, 3))))
    desk.restart(a_send())
    order, decision = list[str](), desk.turn(now=at)
    while decision.calls:
        order += keys(decision)
        desk.restart(a_send()) if len(order) == 2 else None
        decision = desk.turn(results=[Result(call, Accepted(("x",))) for call in decision.calls], now=at)
    assert order == ["1", "2", "3", "4", "5"]


# --- bounds ---------------------------------------------------------------------------------------------------------------


def later(name: str, tenant: str = "a", **changes: Any) -> Delivery:
    return delivery(name, **({"tenant_id": tenant, "address": name, "not_before": NOW + DAY_MS} | changes))


def test_a_tenant_schedules_up_to_its_share_and_refusals_are_reported() -> None:
    desk = a_desk(scheduled=4)
    batch = to_send(later("1"), later("2"), later("3"), later("4", "b"), later("5", "b"), later("6", "c"))
    decision = desk.turn(batch)
    assert refused(decision) == ["schedule_full", "schedule_full"], (
        "the share of tenant a, and the bound of all tenants"
    )
    assert "schedule_full" in DESCRIPTIONS
    assert [refusal.record for refusal in decision.refusals] == [batch[2], batch[5]]
    assert [refusal.tenant_id for refusal in decision.refusals] == ["a", "c"]
    assert "2 deliveries of this tenant wait" in decision.refusals[0].detail
    assert "too many deliveries of all tenants wait" in decision.refusals[1].detail
    updates = decoded(decision.outputs, "status-updates", StatusUpdate)
    assert [(each.delivery_id, each.status, each.cause, each.reason_code) for each in updates] == [
        ("3", Status.FAILED, Cause.REJECTED, "schedule_full"),
        ("6", Status.FAILED, Cause.REJECTED, "schedule_full"),
    ]
    assert sorted(desk.changelog["outstanding"]) == [b"1", b"2", b"4", b"5"]
    desk.restart(a_send(dataclasses.replace(LIMITS, scheduled=4)))
    assert refused(desk.turn(to_send(later("7")))) == ["schedule_full"]
    assert keys(desk.turn(one("a"))) == ["a"], "a delivery without a later time does not count"
    desk.turn(now=NOW + DAY_MS)
    again = codec.decode(decision.refusals[0].record.value, Delivery)
    produced_again = dataclasses.replace(again, not_before=NOW + 2 * DAY_MS)
    assert refused(desk.turn(to_send(produced_again), now=NOW + DAY_MS)) == []
    assert "3" in {row.delivery.delivery_id for row in desk.rows("outstanding").values() if row.is_scheduled}


def test_large_texts_fill_the_schedule_before_they_fill_the_memory() -> None:
    desk = a_desk(scheduled_bytes=500_000)
    decisions = [desk.turn(to_send(later(f"{i}", text="x" * 49_500))) for i in range(9)]
    assert [refused(each) for each in decisions] == [[]] * 6 + [["schedule_full"]] * 3
    assert refused(desk.turn(to_send(later("b", "b", text="y" * 49_500)))) == []


def test_large_texts_to_send_wait_in_kafka() -> None:
    desk = a_desk(scheduled_bytes=500_000)
    number = 0
    while desk.stage.takes("deliveries.whatsapp", desk.state):
        desk.turn(to_send(delivery(f"{number}", seq=number, text="x" * 49_500)))
        number += 1
    assert number == 11


def test_a_tenant_may_use_what_the_schedule_leaves_and_then_waits_in_kafka() -> None:
    desk = a_desk(outstanding=4, scheduled=6, concurrency=1)
    for name in "1234":
        assert desk.stage.takes("deliveries.whatsapp", desk.state)
        desk.turn(to_send(delivery(name, tenant_id="a", address=name)))
    assert desk.stage.takes("deliveries.whatsapp", desk.state), (
        "more than half of `outstanding`, but less than its share of all"
    )
    desk.turn(to_send(delivery("5", tenant_id="a", address="5")))
    assert not desk.stage.takes("deliveries.whatsapp", desk.state)
    desk.restart(desk.stage)
    assert not desk.stage.takes("deliveries.whatsapp", desk.state)


def test_a_tenant_with_a_full_schedule_still_sends() -> None:
    desk = a_desk(outstanding=4, scheduled=6)
    desk.turn(to_send(*(later(f"l{i}") for i in range(9))))
    for name in "12345":
        assert desk.stage.takes("deliveries.whatsapp", desk.state)
        turn = desk.turn(to_send(delivery(name, tenant_id="a", address=name)))
        assert keys(turn) == [name]
        desk.turn(results=[Result(turn.calls[0], Accepted(("x",)))])


def test_a_delivery_refused_for_the_schedule_is_taken_once_it_is_due() -> None:
    desk = a_desk(scheduled=0)
    (source,) = to_send(later("1"))
    assert refused(desk.turn([source])) == ["schedule_full"]
    assert keys(desk.turn([source], now=NOW + DAY_MS)) == ["1"]


def test_a_scheduled_delivery_ends_at_its_end_wherever_it_waits() -> None:
    desk = a_desk()
    desk.turn(to_send(later("1", expires_at=NOW + 10), later("2")))
    desk.restart(a_send())
    assert statuses(desk.turn()) == {}
    assert desk.due() == NOW + 10
    assert statuses(desk.turn(now=NOW + 10)) == {Status.EXPIRED: 1}
    assert sorted(desk.changelog["outstanding"]) == [b"2"]
