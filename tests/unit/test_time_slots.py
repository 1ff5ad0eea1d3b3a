"""Time slots: two slots are at least one interval apart, and slots are given in the order of asking, whenever partitions ask."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipelines.time_slots import TimeSlots
from tests.support.builders import examples

DISTANCE = 1.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def slots(clock: Clock) -> TimeSlots:
    return TimeSlots(int(DISTANCE * 1000), clock)


def test_a_lone_partition_waits_for_nothing_and_then_for_the_distance() -> None:
    clock = Clock()
    line = slots(clock)
    assert line.wait(3) == 0
    line.used(3)
    assert line.wait(3) == DISTANCE
    clock.now += 0.4
    assert round(line.wait(3), 6) == 0.6, "asking again keeps the slot"
    clock.now += 5
    assert line.wait(3) == 0
    line.used(3)
    clock.now += 5
    assert line.wait(3) == 0, "after a pause no partition waits"


def test_slots_are_given_in_the_order_of_asking() -> None:
    clock = Clock()
    line = slots(clock)
    assert [line.wait(partition) for partition in (2, 0, 1)] == [0, 1, 2]
    line.used(2)
    assert line.wait(2) == 3, "a partition that has used its slot gets the last one"


def test_an_unused_slot_delays_no_partition() -> None:
    clock = Clock()
    line = slots(clock)
    assert [line.wait(partition) for partition in (0, 1)] == [0, 1]
    line.used(0)
    clock.now += 2  # partition 1 belongs to another worker now
    assert line.wait(2) == 0


def test_a_partition_that_did_not_wait_moves_the_next_free_slot() -> None:
    clock = Clock()
    line = slots(clock)
    line.used(0)  # a full turn
    assert line.wait(1) == DISTANCE


def test_no_distance_no_waiting() -> None:
    line = TimeSlots(0)
    assert [line.wait(partition) for partition in (0, 1, 0, 2)] == [0, 0, 0, 0]


@examples(200)
@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 4)), max_size=60))
def test_nobody_is_nearer_to_another_than_the_distance(steps: list[tuple[float, int]]) -> None:
    """Time passes, a partition looks whether its slot has come, and uses it if it has."""
    clock = Clock()
    line = slots(clock)
    given: dict[int, float] = {}
    every: list[float] = []
    for passed, partition in steps:
        clock.now += passed
        at = clock.now + line.wait(partition)
        if partition not in given:
            given[partition] = at
            every.append(at)
        if at <= clock.now:
            line.used(partition)
            del given[partition]
    assert all(later - earlier >= DISTANCE - 1e-6 for earlier, later in pairwise(every))
