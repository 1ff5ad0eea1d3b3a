"""A history of two years in PostgreSQL, made by SQL: a conversation that lives for 24 months beside others of the same tenant, and another
tenant's rows with the same ids. tests/integration/test_history*.py read it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg

MONTHS = [datetime(2024 + (11 + n) // 12, (11 + n) % 12 + 1, 1, tzinfo=UTC) for n in range(24)]  # 2024-12 to 2026-11
LONG = "c-long"
PER_MONTH = 20  # messages of the long conversation in each month
OTHERS = 60  # messages of other conversations in each month, 10 conversations
STATUSES = ("READ", "DELIVERED", "SENT", "FAILED", "EXPIRED", "PENDING")

_MESSAGES = """
    insert into messages (tenant_id, message_id, conversation_id, home_partition, seq, direction, sender, kind, text, metadata,
                          requested_at, accepted_at)
    select %(tenant)s, %(conversation)s || '-m' || seq, %(conversation)s, 0, seq, case when seq %% 4 = 0 then 'INBOUND' else 'OUTBOUND' end,
           'app', 'text', 'text ' || seq, '{}', at, at
      from unnest(%(seqs)s::bigint[], %(times)s::timestamptz[]) as given (seq, at)
"""
_DELIVERIES = """
    insert into deliveries (tenant_id, delivery_id, event_id, message_id, conversation_id, home_partition, seq, channel, account, recipient,
                            address, version, previous_status, status, cause, occurred_at, observed_at, requested_at, accepted_at,
                            failed_at, delivered_implied, attempts, resends, reason_code, reason)
    select tenant_id, 'd-' || message_id, 'e-' || message_id, message_id, conversation_id, 0, seq, 'whatsapp', 'a', 'u1', '1555', 2,
           'PENDING', status, 'ACCEPTED', accepted_at, accepted_at, accepted_at, accepted_at,
           case when status = 'FAILED' then accepted_at end, false, 1, 0,
           case status when 'FAILED' then 'code-' || seq %% 3 end, case status when 'FAILED' then 'reason ' || seq %% 3 end
      from (select *, (%(statuses)s::text[])[1 + seq %% 6] as status from messages
             where tenant_id = %(tenant)s and conversation_id = %(conversation)s and direction = 'OUTBOUND') as m
"""


def add_messages(
    connection: psycopg.Connection[Any], tenant: str, conversation: str, rows: Sequence[tuple[int, datetime]]
) -> None:
    """Messages of one conversation, (seq, accepted_at) each: every fourth inbound, the others with one delivery, whose status follows from
    the sequence. Give each conversation once."""
    values = {
        "tenant": tenant,
        "conversation": conversation,
        "seqs": [seq for seq, _ in rows],
        "times": [at for _, at in rows],
        "statuses": list(STATUSES),
    }
    connection.execute(_MESSAGES, values)
    connection.execute(_DELIVERIES, values)


def status_of(seq: int) -> str:
    """The status of the delivery of an outbound message."""
    return STATUSES[seq % 6]


def two_years(connection: psycopg.Connection[Any]) -> None:
    """All rows, and the statistics of the planner."""
    for month in MONTHS:
        connection.execute("select create_month(%s::date)", (month,))
    for tenant in ("acme", "other"):
        add_messages(
            connection,
            tenant,
            LONG,
            [
                (n * PER_MONTH + m + 1, month.replace(day=1 + m))
                for n, month in enumerate(MONTHS)
                for m in range(PER_MONTH)
            ],
        )
    for conversation in range(10):
        rows = [
            (n * (OTHERS // 10) + m + 1, month.replace(day=1 + m, hour=conversation))
            for n, month in enumerate(MONTHS)
            for m in range(OTHERS // 10)
        ]
        add_messages(connection, "acme", f"c{conversation}", rows)
    connection.execute(
        "insert into conversations (tenant_id, conversation_id, members, first_message_at, last_message_at, last_seq)"
        " select tenant_id, conversation_id, '{}', min(accepted_at), max(accepted_at), max(seq) from messages group by 1, 2"
    )
    connection.execute("analyze")
