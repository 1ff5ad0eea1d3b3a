"""Rows of ClickHouse made from PostgreSQL: every transition of a delivery, and what was accepted.

Enters: a row of `deliveries` and its rows of `delivery_events`. Leaves: DeliveryState as stage analyse would have got it, without
address and reason. Pure. The newest transition is exactly the delivery's row. For older ones, PostgreSQL has what happened, not the whole
timeline: it is built up again from the events in the order of their versions, with the rules of tables/timelines.py:
- `sent_at`, `delivered_at`, `read_at`, `failed_at`: the earliest plausible time of an event that reported this so far;
- `throttles`: the throttled ones so far; `first_dispatched_at`: the earliest call so far;
- `ready_at`: as it is now, from the first call on.
So these differ from what Kafka had only where a receipt covered earlier messages, or came before the versions that say what was reported.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from schemas.records import Cause, DeliveryState, Status
from sinks.fact_tables import AcceptedDelivery, label
from sinks.storable_text import original

_FAILURES = frozenset({Status.FAILED, Status.EXPIRED, Status.CANCELLED, Status.SUPPRESSED})
_ARRIVED = frozenset({Status.DELIVERED, Status.READ})
_TEXTS = frozenset(
    {
        "tenant_id",
        "delivery_id",
        "event_id",
        "message_id",
        "conversation_id",
        "channel",
        "account",
        "kind",
        "fallback_of",
    }
)
# Of an event itself; everything else of an older transition is the delivery's, or built up.
_OF_EVENT = (
    "event_id",
    "version",
    "previous_status",
    "status",
    "cause",
    "anomaly",
    "occurred_at",
    "observed_at",
    "dispatched_at",
    "attempts",
    "resends",
    "reason_code",
    "stalled_at",
    "attempt",
    "reported",
    "throttled",
    "retry_at",
)
Row = Mapping[str, Any]


@dataclass(slots=True)
class _Seen:
    """What the events of a delivery have shown so far. Times are Unix milliseconds."""

    sent_at: int | None = None
    delivered_at: int | None = None
    read_at: int | None = None
    failed_at: int | None = None
    first_dispatched_at: int | None = None
    throttles: int = 0

    def add(self, event: Row, accepted_at: int) -> None:
        """Takes one event in."""
        at = max(accepted_at, min(event["occurred_at"], event["observed_at"]))
        status = _reported(event)
        if status is Status.SENT:
            self.sent_at = _earliest(self.sent_at, at)
        elif status is Status.DELIVERED:
            self.delivered_at = _earliest(self.delivered_at, at)
        elif status is Status.READ:
            self.read_at = _earliest(self.read_at, at)
        elif status in _FAILURES:
            self.failed_at = _earliest(self.failed_at, at)
        self.throttles += event["throttled"]
        self.first_dispatched_at = _earliest(self.first_dispatched_at, event["dispatched_at"])

    def times(self, status: Status) -> dict[str, Any]:
        """The fields of a transition to that status."""
        arrived = status in _ARRIVED
        delivered_at = _earliest(self.delivered_at, self.read_at)
        return {
            "sent_at": _earliest(self.sent_at, delivered_at) if arrived else self.sent_at,
            "delivered_at": delivered_at,
            "read_at": self.read_at,
            "failed_at": None if arrived else self.failed_at,
            "delivered_implied": self.delivered_at is None and self.read_at is not None,
            "throttles": self.throttles,
            "first_dispatched_at": self.first_dispatched_at,
        }


def states_of(delivery: Row, events: Sequence[Row]) -> Iterator[DeliveryState]:
    """The transitions of a delivery, by version. Rows are as PostgreSQL gives them: column -> value, times with a time zone."""
    given = _plain(delivery)
    seen = _Seen()
    for row in sorted(map(_plain, events), key=lambda each: int(each["version"])):
        seen.add(row, given["accepted_at"])
        if row["version"] == given["version"]:
            yield _state(given)
        elif row["version"] < given["version"]:
            ready = given["ready_at"] if seen.first_dispatched_at is not None else None
            own = {name: row[name] for name in _OF_EVENT} | seen.times(Status(row["status"])) | {"ready_at": ready}
            yield _state(given | own)


def accepted_of(delivery: Row) -> AcceptedDelivery:
    """What was accepted of a delivery. `campaign` is a column of the row: the label of its message."""
    row = _plain(delivery)
    return AcceptedDelivery(
        row["tenant_id"],
        row["channel"],
        row["account"],
        row["delivery_id"],
        row["message_id"],
        row["conversation_id"],
        row["home_partition"],
        row["seq"],
        row["kind"],
        label(original(row["campaign"] or "")),
        row["fallback_of"],
        row["accepted_at"],
        row["not_before"],
    )


def _state(row: Row) -> DeliveryState:
    fields = {name: row[name] for name in DeliveryState.__dataclass_fields__ if name in row}
    words = {
        "previous_status": Status(row["previous_status"]),
        "status": Status(row["status"]),
        "cause": Cause(row["cause"]),
    }
    return DeliveryState(**(fields | words))


def _plain(row: Row) -> dict[str, Any]:
    """Times as Unix milliseconds, and ids as the records had them."""
    return {name: _value(name, value) for name, value in row.items()}


def _value(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    return original(value) if name in _TEXTS and value is not None else value


def _reported(event: Row) -> Status | None:
    """What the event said. Versions before 4 of delivery_state do not say it: then what it changed, and for an accepted call SENT."""
    if event["reported"]:
        return Status(event["reported"])
    if event["cause"] == Cause.ACCEPTED:
        return Status.SENT
    return None if event["previous_status"] == event["status"] else Status(event["status"])


def _earliest(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)
