"""Parts the simulated providers share: dice, schedules, buckets, the clock."""

import asyncio
from collections.abc import Callable

import pytest

from simulators.clock import Clock
from simulators.misbehaviour import Dice, Misbehaviour
from simulators.misbehaviour_schedule import Schedule
from simulators.provider_limits import TokenBuckets

STEADY = Misbehaviour()


def test_what_others_call_changes_nobodys_luck() -> None:
    misbehaviour = Misbehaviour(throttle_rate=0.3, error_rate=0.3, hang_rate=0.3)
    alone = Dice(7)
    fates = [alone.draw("ana").fate(misbehaviour) for _ in range(50)]
    among_others = Dice(7)
    met = []
    for number in range(50):
        among_others.draw(f"somebody {number}").fate(misbehaviour)
        met.append(among_others.draw("ana").fate(misbehaviour))
    assert met == fates
    assert len(set(fates)) == 4
    assert [Dice(8).draw("ana").fate(misbehaviour) for _ in range(50)] != fates


def test_rates_are_shares() -> None:
    draws = [Dice(1).draw(str(number)) for number in range(4000)]
    assert 0.22 < sum(draw.happens(0.25) for draw in draws) / 4000 < 0.28
    assert 0.48 < sum(draw.number() for draw in draws) / 4000 < 0.52


def test_phases_counted_in_calls_come_and_go_exactly() -> None:
    schedule = Schedule(STEADY, Clock())
    schedule.now()
    schedule.plan(
        [
            {"after_calls": 2, "for_calls": 3, "knobs": {"error_rate": 1}},
            {"after_calls": 4, "for_calls": 2, "knobs": {"latency_ms": 500}},
        ]
    )
    seen = [schedule.now() for _ in range(8)]
    assert [misbehaviour.error_rate for misbehaviour in seen] == [0, 0, 1, 1, 1, 0, 0, 0]
    assert [misbehaviour.latency_ms for misbehaviour in seen] == [20, 20, 20, 20, 500, 500, 20, 20]


def test_phases_in_seconds_follow_the_providers_clock() -> None:
    clock = Clock()
    schedule = Schedule(STEADY, clock)
    schedule.plan([{"after_seconds": 600, "for_seconds": 600, "knobs": {"error_rate": 1}}])
    rates = []
    for offset in (0, 900_000, 1_800_000):
        clock.set_offset(offset)
        rates.append(schedule.now().error_rate)
    assert rates == [0, 1, 0]


@pytest.mark.parametrize(
    "phases",
    [
        {},
        [5],
        [{"for_calls": 1}],
        [{"knobs": {"error_rate": 1}}],
        [{"for_calls": -1, "knobs": {}}],
        [{"for_calls": 1, "knobs": {"nonsense": 1}}],
        [{"for_calls": 1, "knobs": {"error_rate": 2}}],
    ],
)
def test_a_wrong_schedule_changes_nothing(phases: object) -> None:
    schedule = Schedule(STEADY, Clock())
    schedule.plan([{"for_calls": 1, "knobs": {"error_rate": 1}}])
    with pytest.raises(ValueError, match=r"\w"):
        schedule.plan(phases)
    assert schedule.phases == 1
    assert schedule.now().error_rate == 1


def test_a_bucket_holds_its_burst_and_fills_by_the_clock() -> None:
    buckets = TokenBuckets()

    def wait(now: int) -> float:
        return buckets.wait("pair", now, burst=45, every_ms=6000)

    assert [wait(1_000) for _ in range(45)] == [0.0] * 45
    assert wait(1_000) == 6000
    assert wait(6_999) == 1
    assert wait(7_000) == 0
    assert wait(7_000) == 6000
    assert [wait(10_000_000) for _ in range(46)] == [0.0] * 45 + [6000]
    assert buckets.wait("nobody counts", 0, burst=0, every_ms=6000) == 0


async def test_who_sleeps_by_the_clock_wakes_when_it_is_pushed() -> None:
    clock = Clock()
    order: list[str] = []

    async def sleep(name: str, until: Callable[[], int]) -> None:
        await clock.sleep_until(until())
        order.append(name)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(sleep("an hour", lambda: clock.now() + 3_600_000))
        late = group.create_task(sleep("a day", lambda: clock.now() + 86_400_000))
        await asyncio.sleep(0)
        clock.set_offset(3_600_000)
        while not order:  # noqa: ASYNC110  # the loop turns until the other task has had its turn
            await asyncio.sleep(0)
        assert not late.done()
        clock.set_offset(86_400_000)
    assert order == ["an hour", "a day"]
