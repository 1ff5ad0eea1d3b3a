"""Questions to the databases: one message's timeline from PostgreSQL, the delivery report from ClickHouse.

Enters: a connection or a client, and what to ask. Leaves: plain values, with the SQL where an analyst may want it. Reads only; times
are Unix milliseconds, and texts are as people wrote them (sinks/storable_text.py undone).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from clickhouse_connect.driver.client import Client
from psycopg.rows import dict_row

from sinks.storable_text import key, original, original_json

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Trail:
    """One delivery as it stands, and its transitions in order."""

    delivery: Row
    events: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class MessageTimeline:
    """One message and everything that became of it. `message` is None while only deliveries have reached the archive."""

    message_id: str
    conversation_id: str
    message: Row | None
    trails: tuple[Trail, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Rows, one dict each, and the SQL that made them."""

    rows: tuple[Row, ...]
    sql: str


_CONVERSATIONS = """
    select conversation_id from messages where tenant_id = %(tenant)s and message_id = %(message)s
    union select conversation_id from deliveries where tenant_id = %(tenant)s and message_id = %(message)s
    order by 1 limit %(at_most)s
"""


def timelines(
    connection: psycopg.Connection[Any],
    message_id: str,
    tenant_id: str = "default",
    conversation_id: str | None = None,
    at_most: int = 100,
) -> tuple[MessageTimeline, ...]:
    """Everything PostgreSQL knows of a message: one timeline, or one for each conversation in which a tenant used the id, up to
    `at_most`; only the one that is named, if one is. Empty when it knows nothing."""
    tenant, message = key(tenant_id), key(message_id)
    if conversation_id is not None:
        conversations = [key(conversation_id)]
    else:
        asked = {"tenant": tenant, "message": message, "at_most": at_most}
        conversations = [row[0] for row in connection.execute(_CONVERSATIONS, asked)]
    found = (_timeline(connection, (tenant, conversation, message)) for conversation in conversations)
    return tuple(each for each in found if each is not None)


def _timeline(connection: psycopg.Connection[Any], place: tuple[str, str, str]) -> MessageTimeline | None:
    """`place` is tenant, conversation and message id as the key columns have them."""
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
    if message is None and not deliveries:
        return None
    return MessageTimeline(
        message_id=original(place[2]),
        conversation_id=original(place[1]),
        message=None if message is None else _told(message),
        trails=tuple(
            Trail(
                _told(delivery),
                tuple(_told(event) for event in events if event["delivery_id"] == delivery["delivery_id"]),
            )
            for delivery in deliveries
        ),
    )


def delivery_report(client: Client, since: datetime, until: datetime, *, by_hour: bool = False) -> Report:
    """What became of the deliveries accepted in [since, until), by tenant and channel; `by_hour` reads the roll-up instead."""
    view, format_ = (
        ("report_delivery_by_hour", "%Y-%m-%d %H:%M:%S") if by_hour else ("report_delivery", "%Y-%m-%d %H:%M:%S.%f")
    )
    begin, end = (at.astimezone(UTC).strftime(format_)[:23] for at in (since, until))
    sql = f"select * from {view}(since = '{begin}', until = '{end}')"  # noqa: S608  # a view's name and two times of ours
    return Report(tuple(client.query(sql).named_results()), sql)


def _told(row: Row) -> dict[str, Any]:
    return {name: _value(value) for name, value in row.items()}


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    return original_json(value)
