"""Which deliveries count for the objective accept_to_sent, and which of them are late. The roll-ups of ClickHouse count the same ones."""

from typing import Any

import pytest

from pipelines.track_objective import is_late
from schemas.objectives import OBJECTIVES
from schemas.records import Status
from tests.support.sink_databases import T0, state

LIMIT = round(1000 * next(each.seconds for each in OBJECTIVES if each.name == "accept_to_sent"))
ACCEPTED = T0 + 6


@pytest.mark.parametrize(
    ("version", "changes", "late"),
    [
        (2, {"sent_at": ACCEPTED + LIMIT}, False),
        (2, {"sent_at": ACCEPTED + LIMIT + 1}, True),
        (2, {"sent_at": ACCEPTED - 5}, False),  # two clocks
        (1, {}, None),  # accepted, nothing sent
        (3, {}, None),  # it was SENT before: counted then
        (2, {"status": Status.FAILED, "sent_at": None}, None),
        (3, {"previous_status": Status.PENDING, "sent_at": ACCEPTED + LIMIT + 1}, True),  # the receipt came first
        (3, {"previous_status": Status.PENDING, "sent_at": None}, None),
        (2, {"sent_at": ACCEPTED + LIMIT + 1, "not_before": ACCEPTED + LIMIT}, None),  # scheduled
        (2, {"sent_at": ACCEPTED + LIMIT + 1, "throttles": 1}, None),
    ],
)
def test_a_delivery_counts_once_when_it_is_sent(version: int, changes: dict[str, Any], late: bool | None) -> None:
    assert is_late(state(1, version, **changes)) is late
