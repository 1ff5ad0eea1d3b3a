"""Rows of ClickHouse made from PostgreSQL's are those that the timelines of stage track published."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Cause, DeliveryState, Status, StatusUpdate
from sinks.fact_tables import BATCH, EVENTS, columns
from sinks.replay_rows import accepted_of, states_of
from tables.timelines import apply, introduce
from tests.support.sink_databases import T0, sequenced

ACCEPTED_AT = T0 + 6
OF_EVENT = (
    *(
        "tenant_id",
        "delivery_id",
        "event_id",
        "version",
        "previous_status",
        "status",
        "cause",
        "anomaly",
        "occurred_at",
        "observed_at",
    ),
    *(
        "dispatched_at",
        "attempts",
        "resends",
        "reason_code",
        "stalled_at",
        "accepted_at",
        "attempt",
        "reported",
        "throttled",
        "retry_at",
    ),
)


def stored(state: DeliveryState) -> dict[str, Any]:
    """The row of PostgreSQL, with times as it gives them."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return {
        name: epoch + timedelta(milliseconds=value)
        if value is not None and (name.endswith("_at") or name == "not_before")
        else value
        for name, value in asdict(state).items()
    }


def update(number: int, status: Status, cause: Cause, occurred: int, *, throttled: bool = False) -> StatusUpdate:
    """An attempt has its call a little before it ends; attempts come in their order."""
    is_attempt = cause is not Cause.RECEIPT
    dispatched = ACCEPTED_AT + 1000 * number if is_attempt else None
    return StatusUpdate(
        event_id=f"e{number}",
        delivery_id="d1",
        conversation_id="c1",
        home_partition=0,
        status=status,
        cause=cause,
        occurred_at=ACCEPTED_AT + occurred,
        observed_at=ACCEPTED_AT + 1000 * number + 500,
        attempt=number if is_attempt else 0,
        dispatched_at=dispatched,
        throttled=throttled,
        reason_code="131026" if status is Status.FAILED else None,
    )


ATTEMPTS = st.sampled_from(
    (
        (Status.PENDING, Cause.RETRY_LATER),
        (Status.PENDING, Cause.UNKNOWN),
        (Status.SENT, Cause.ACCEPTED),
        (Status.FAILED, Cause.REJECTED),
        (Status.EXPIRED, Cause.EXPIRED),
    )
)
RECEIPTS = st.tuples(
    st.sampled_from((Status.SENT, Status.DELIVERED, Status.READ, Status.FAILED)), st.just(Cause.RECEIPT)
)
STEPS = st.lists(st.tuples(st.one_of(ATTEMPTS, RECEIPTS), st.integers(-5000, 20_000), st.booleans()), max_size=12)


def published(steps: list[tuple[tuple[Status, Cause], int, bool]]) -> list[DeliveryState]:
    """What stage track publishes of these updates, in any order of what they report."""
    message = sequenced(1)
    row, first = introduce(message, message.deliveries[0], 0, ACCEPTED_AT + 1)
    states = [first]
    for number, ((status, cause), occurred, throttled) in enumerate(steps, 1):
        row, state = apply(
            row, update(number, status, cause, occurred, throttled=throttled and cause is Cause.RETRY_LATER)
        )
        states += [state] if state else []
    return states


@given(STEPS)
def test_every_transition_is_made_again_from_the_rows_of_postgresql(
    steps: list[tuple[tuple[Status, Cause], int, bool]],
) -> None:
    states = published(steps)
    events = [{name: value for name, value in stored(each).items() if name in OF_EVENT} for each in states]
    made = list(states_of(stored(states[-1]), events[::-1]))
    for name, was, now in zip(EVENTS.columns, columns(EVENTS, states), columns(EVENTS, made), strict=True):
        assert name == BATCH or now == was, name


def test_what_was_accepted_is_made_again() -> None:
    state = published([])[0]
    row = accepted_of(stored(state) | {"campaign": "spring"})
    assert (row.delivery_id, row.campaign, row.accepted_at, row.kind) == ("d1", "spring", ACCEPTED_AT, "text")


def test_an_event_without_what_it_reported_counts_by_what_it_changed() -> None:
    """As rows of former releases are."""
    states = published([((Status.SENT, Cause.ACCEPTED), 1200, False), ((Status.READ, Cause.RECEIPT), 3000, False)])
    events = [
        {name: value for name, value in stored(each).items() if name in OF_EVENT} | {"reported": ""} for each in states
    ]
    made = list(states_of(stored(states[-1]), events))
    assert [(each.sent_at, each.read_at) for each in made] == [(each.sent_at, each.read_at) for each in states]
