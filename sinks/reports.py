"""Queries of PostgreSQL: the timeline of a message, and stalled deliveries. The reports of ClickHouse are in sinks/report_queries.py.

Enters: a connection, and what to look for. Leaves: plain values. Guaranteed: only reads; times are Unix milliseconds; texts are the
original ones (sinks/storable_text.py is undone). All functions block and use the caller's connection in the caller's thread; errors of the
driver pass through.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

from sinks.storable_text import key, original, original_json

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Trail:
    """One delivery in its current state (a row of `deliveries`), and its transitions in order (rows of `delivery_events`)."""

    delivery: Row
    events: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class MessageTimeline:
    """One message and its deliveries. `message` is None while only its deliveries have reached the archive, `roll_up` (a row of
    `message_roll_ups`, with the counts of `message_states`) is None while it has none."""

    message_id: str
    conversation_id: str
    message: Row | None
    trails: tuple[Trail, ...]
    roll_up: Row | None = None


@dataclass(frozen=True, slots=True)
class WaitingDelivery:
    """A delivery whose receipt is missing: stalled, or SENT for longer than the question said. Times are Unix milliseconds."""

    tenant_id: str
    channel: str
    account: str
    conversation_id: str
    message_id: str
    delivery_id: str
    provider_message_id: str | None
    sent_at: int | None
    stalled_at: int | None  # None: it does not count as stalled


_CONVERSATIONS = """
    select conversation_id from messages where tenant_id = %(tenant)s and message_id = %(message)s
    union select conversation_id from deliveries where tenant_id = %(tenant)s and message_id = %(message)s
    order by 1 limit %(at_most)s
"""


_ROLL_UP = """
    select s.deliveries, s.pending, s.sent, s.delivered, s.read, s.failed, s.expired, s.cancelled, s.suppressed, s.changed_at,
           r.best, r.worst, r.sent as all_sent, r.delivered as all_delivered, r.read as all_read, r.failed as all_failed
      from message_states s join message_roll_ups r using (tenant_id, conversation_id, message_id)
     where tenant_id = %s and conversation_id = %s and message_id = %s
"""


def timelines(
    connection: psycopg.Connection[Any],
    message_id: str,
    tenant_id: str = "default",
    conversation_id: str | None = None,
    at_most: int = 100,
) -> tuple[MessageTimeline, ...]:
    """The timelines of a message id in PostgreSQL, one for each conversation in which the tenant used the id, at most `at_most`. With
    `conversation_id`, only that conversation's. Empty when PostgreSQL has no such message."""
    tenant, message = key(tenant_id), key(message_id)
    if conversation_id is not None:
        conversations = [key(conversation_id)]
    else:
        asked = {"tenant": tenant, "message": message, "at_most": at_most}
        conversations = [row[0] for row in connection.execute(_CONVERSATIONS, asked)]
    found = (_timeline(connection, (tenant, conversation, message)) for conversation in conversations)
    return tuple(each for each in found if each is not None)


def _timeline(connection: psycopg.Connection[Any], place: tuple[str, str, str]) -> MessageTimeline | None:
    """`place` is (tenant, conversation id, message id), as in the key columns."""
    with connection.cursor(row_factory=dict_row) as cursor:
        message = cursor.execute(
            "select * from messages where tenant_id = %s and conversation_id = %s and message_id = %s", place
        ).fetchone()
        deliveries = cursor.execute(
            "select * from deliveries where tenant_id = %s and conversation_id = %s and message_id = %s"
            " order by channel, recipient, delivery_id",
            place,
        ).fetchall()
        events = cursor.execute(
            "select * from delivery_events where tenant_id = %s and delivery_id = any(%s) order by version, event_id",
            (place[0], [delivery["delivery_id"] for delivery in deliveries]),
        ).fetchall()
        roll_up = cursor.execute(_ROLL_UP, place).fetchone()
    if message is None and not deliveries:
        return None
    return MessageTimeline(
        message_id=original(place[2]),
        conversation_id=original(place[1]),
        message=None if message is None else _plain(message),
        trails=tuple(
            Trail(
                _plain(delivery),
                tuple(_plain(event) for event in events if event["delivery_id"] == delivery["delivery_id"]),
            )
            for delivery in deliveries
        ),
        roll_up=None if roll_up is None else _plain(roll_up),
    )


def waiting_deliveries(
    connection: psycopg.Connection[Any], channel: str, at_most: int, sent_before: datetime | None = None
) -> tuple[WaitingDelivery, ...]:
    """The stalled deliveries of a channel in PostgreSQL, those that were sent first in front, at most `at_most`. With `sent_before`, also
    deliveries that are SENT since before that time."""
    names = tuple(WaitingDelivery.__dataclass_fields__)
    relation, condition = "stalled_deliveries", ""
    if sent_before is not None:
        relation, condition = (
            "deliveries",
            " and (stalled_at is not null or (status = 'SENT' and sent_at < %(before)s))",
        )
    found = connection.execute(
        (
            f"select {', '.join(names)} from {relation} where channel = %(channel)s{condition}"  # noqa: S608  # our own names
            " order by sent_at, delivery_id limit %(at_most)s"
        ).encode(),
        {"channel": channel, "before": sent_before, "at_most": at_most},
    )
    return tuple(WaitingDelivery(**dict(zip(names, map(_value, row), strict=True))) for row in found)


def _plain(row: Row) -> dict[str, Any]:
    return {name: _value(value) for name, value in row.items()}


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    return original_json(value)
