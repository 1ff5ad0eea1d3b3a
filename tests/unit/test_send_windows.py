"""Stage send knows until when an account may write freely to a person: the newest window counts, and a closed one is forgotten."""

import itertools
from typing import Any

import pytest

from pipelines.send import Send
from pipelines.send_state import SendLimits, State
from tests.support.builders import NOW, Desk, record, refused, window
from tests.support.counting_provider import Provider

HOUR = 3_600_000
PERSON = ("whatsapp", "acc-1", "15550001")


def a_send() -> Send:
    limits = SendLimits(concurrency=1, outstanding=1, attempts=3, hold_ms=1000, scheduled=0)
    return Send(connectors={"whatsapp": Provider("whatsapp", "hold")}, limits=limits)


@pytest.fixture
def desk() -> Desk[State]:
    return Desk(a_send())


def opened(opened_at: int, **changes: Any) -> Any:
    return record("windows", window(opened_at=opened_at, closes_at=opened_at + 24 * HOUR, **changes))


def test_a_window_is_open_until_it_closes(desk: Desk[State]) -> None:
    assert desk.state.windows.open_until(*PERSON, NOW) is None
    assert desk.turn([opened(NOW)]).counts == {"window_learned": 1}
    desk.restart(a_send())
    closes_at = NOW + 24 * HOUR
    assert desk.state.windows.open_until(*PERSON, closes_at - 1) == closes_at
    assert desk.state.windows.open_until(*PERSON, closes_at) is None
    others = [("instagram", "acc-1", "15550001"), ("whatsapp", "acc-2", "15550001"), ("whatsapp", "acc-1", "15550002")]
    assert [desk.state.windows.open_until(*each, NOW) for each in others] == [None, None, None]


@pytest.mark.parametrize("order", list(itertools.permutations((NOW, NOW + 1, NOW + 2))))
def test_the_newest_window_counts_in_any_order(order: tuple[int, ...], desk: Desk[State]) -> None:
    for opened_at in order:
        desk.turn([opened(opened_at), opened(opened_at)], now=NOW + 3)
    assert desk.state.windows.open_until(*PERSON, NOW + 3) == NOW + 2 + 24 * HOUR


def test_a_closed_window_is_forgotten(desk: Desk[State]) -> None:
    desk.turn([opened(NOW)])
    assert desk.due() == NOW + 24 * HOUR
    desk.turn(now=NOW + 24 * HOUR)
    assert not desk.changelog["windows"]
    assert desk.due() is None
    assert desk.turn([opened(NOW)], now=NOW + 24 * HOUR).counts == {}, "it has closed already"


def test_a_full_partition_still_learns_windows(desk: Desk[State]) -> None:
    assert desk.stage.takes("windows", desk.state)
    desk.state.held.add("default", 1)
    assert not desk.stage.takes("deliveries.whatsapp", desk.state)
    assert desk.stage.takes("windows", desk.state)


def test_a_window_of_another_partition_is_refused(desk: Desk[State]) -> None:
    assert refused(desk.turn([opened(NOW, home_partition=2)])) == ["wrong_partition"]
