"""Parts that the simulated providers share: random outcomes, schedules, token buckets, the clock."""

import asyncio
from collections.abc import Callable

import pytest

from simulators.clock import Clock
from simulators.misbehaviour import Misbehaviour, RandomSource
from simulators.misbehaviour_schedule import Schedule
from simulators.provider_limits import TokenBuckets

STEADY = Misbehaviour()


def test_calls_for_others_do_not_change_the_outcomes_of_a_recipient() -> None:
    misbehaviour = Misbehaviour(throttle_rate=0.3, error_rate=0.3, hang_rate=0.3)
    alone = RandomSource(7)
    outcomes = [alone.for_call("ana").outcome(misbehaviour) for _ in range(50)]
    among_others = RandomSource(7)
    drawn = []
    for number in range(50):
        among_others.for_call(f"other {number}").outcome(misbehaviour)
        drawn.append(among_others.for_call("ana").outcome(misbehaviour))
    assert drawn == outcomes
    assert len(set(outcomes)) == 4
    assert [RandomSource(8).for_call("ana").outcome(misbehaviour) for _ in range(50)] != outcomes


def test_rates_are_shares() -> None:
    numbers = [RandomSource(1).for_call(str(number)) for number in range(4000)]
    assert 0.22 < sum(rng.happens(0.25) for rng in numbers) / 4000 < 0.28
    assert 0.48 < sum(rng.number() for rng in numbers) / 4000 < 0.52


def test_phases_counted_in_calls_begin_and_end_exactly() -> None:
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
    assert buckets.wait("no limit", 0, burst=0, every_ms=6000) == 0


async def test_a_sleep_ends_when_the_clock_is_set_forward() -> None:
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
        while not order:  # noqa: ASYNC110  # yields to the loop until the other task has run
            await asyncio.sleep(0)
        assert not late.done()
        clock.set_offset(86_400_000)
    assert order == ["an hour", "a day"]
