"""Records as rows for COPY: a column is converted as a whole, and every row is what it would be alone."""

from dataclasses import replace
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from schemas.records import DeliveryState, Status
from sinks import staging
from sinks.storable_text import EARLIEST, LATEST, held, key, storable
from tests.support.sink_databases import sequenced, state

EPOCH_2000 = 946_684_800_000
texts = st.sampled_from(["", "plain", "\x00", "\u2400", "a\u24000b", "é" * 300, "a" * 2000, "👋" * 200])
times = st.sampled_from([0, EARLIEST - 1, EARLIEST, LATEST, LATEST + 1, 1_700_000_000_000])
changes = st.fixed_dictionaries(
    {
        "conversation_id": texts,
        "channel": texts,
        "reason": st.none() | texts,
        "occurred_at": times,
        "sent_at": st.none() | times,
        "attempts": st.integers(0, 9),
        "status": st.sampled_from(Status),
    }
)


def _copied(record: DeliveryState) -> dict[str, Any]:
    """What the changed columns must hold, value by value."""

    def time(at: int | None) -> int | None:
        return None if at is None else (held(at) - EPOCH_2000) * 1000

    return {
        "conversation_id": key(record.conversation_id),
        "channel": storable(record.channel),
        "reason": None if record.reason is None else storable(record.reason),
        "occurred_at": time(record.occurred_at),
        "sent_at": time(record.sent_at),
        "attempts": record.attempts,
        "status": str(record.status),
    }


@example(given_changes=[{}] * (2 * staging.ROWS_AT_ONCE + 1))
@given(given_changes=st.lists(changes, max_size=6))
def test_every_row_is_what_it_would_be_alone(given_changes: list[dict[str, Any]]) -> None:
    records = [replace(state(number), **each) for number, each in enumerate(given_changes)]
    rows = [dict(zip(staging.STATES.columns, row, strict=True)) for row in staging.STATES.rows(iter(records))]
    assert len(rows) == len(records)
    for row, record in zip(rows, records, strict=True):
        assert row["delivery_id"] == record.delivery_id
        expected = _copied(record)
        assert {name: row[name] for name in expected} == expected
        assert type(row["status"]) is str


def test_the_place_of_a_row_counts_over_all_rows() -> None:
    messages = [sequenced(number) for number in range(2 * staging.ROWS_AT_ONCE + 3)]
    assert [row[-1] for row in staging.MESSAGES.rows(messages)] == list(range(len(messages)))
