"""Receipts of thousands of deliveries, in any order, repeated, late and lost, through the real stages: the states and the cursors end as
the reference says, and nothing on `delivery-states` and `cursors` ever goes backwards.

One seed is one run. `make test-receipts` does many more.
"""

from collections import Counter
from functools import cache

import pytest

from pipelines import track
from tests.support.receipt_verdict import judge
from tests.support.receipt_world import World, a_long_world, a_world

SEEDS = range(1, 11)
DELIVERIES = 250  # at least, of each run


@cache
def run_of(seed: int) -> World:
    world = a_world(seed, messages=120)
    world.run()
    return world


@pytest.mark.parametrize("seed", SEEDS)
def test_any_receipts_end_as_the_reference_says_and_nothing_goes_backwards(seed: int) -> None:
    world = run_of(seed)
    judge(world)
    assert len(world.watch.states) >= DELIVERIES


@pytest.mark.parametrize("seed", [1, 2])
def test_reads_of_a_long_conversation_reach_its_first_delivery(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More sequences than one receipt looks at in one turn, and in the second run more deliveries than one turn covers."""
    monkeypatch.setattr(track, "COVERED_PER_TURN", (4096, 5)[seed - 1])
    world = a_long_world(seed)
    world.run(most=120)
    judge(world)
    assert world.counts["cover_continued"] > 0


def test_the_runs_have_everything_that_they_are_about() -> None:
    """So that none of the checks above holds because nothing happened."""
    worlds = [run_of(seed) for seed in SEEDS]
    counts = sum((world.counts for world in worlds), Counter[str]())
    causes = {cause for world in worlds for cause in world.causes}
    states = [state for world in worlds for state in world.watch.states.values()]
    assert len(states) > 5000
    assert {"SENT", "DELIVERED", "READ", "FAILED"} <= {state.status for state in states}
    assert {
        "anomaly", "covered", "report_backwards", "report_clamped", "report_repeated", "report_unknown", "repeated", "stalled",
        "stalled_cleared", "lost turns", "restarts", "foreign", "replies",
    } <= set(counts)  # fmt: skip  # a list of names
    assert {"wrong_tenant", "wrong_partition"} <= causes
    assert sum(state.throttles > 0 for state in states) > 50
    assert (
        sum(state.ready_at is not None and state.ready_at < (state.first_dispatched_at or 0) for state in states) > 50
    )
    assert sum(state.first_dispatched_at != state.dispatched_at for state in states) > 50
    assert (
        max(len({s.recipient for s in states if s.conversation_id == talk.name}) for w in worlds for talk in w.talks)
        >= 50
    )
