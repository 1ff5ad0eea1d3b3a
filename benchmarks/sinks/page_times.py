"""Pages of a conversation out of five million messages in PostgreSQL.

Enters: a PostgreSQL with our relations. `fill` makes the messages by SQL: 24 months, conversations of 100 messages that go on through all
of them. Leaves: milliseconds of each page. A page that is not full is an error: nothing was measured.
"""

import random
import time
from typing import Any

import psycopg

from sinks.history import conversation_messages

MONTHS = 24
A_CONVERSATION = 100  # messages; they go on through all months
PAGE = 50
TENANT = "default"

_MONTHS = """
select create_month((date '2025-01-01' + n * interval '1 month')::date) from generate_series(0, %s - 1) as n
"""
# Message n belongs to conversation n modulo their number, so that each goes on through all months.
_MESSAGES = """
insert into messages (tenant_id, message_id, conversation_id, home_partition, seq, direction, sender, kind, text, metadata, requested_at,
                      accepted_at)
select 'default', 'm' || n, 'c' || lpad((n %% %(conversations)s)::text, 6, '0'), n %% 12, n / %(conversations)s + 1,
       case n %% 5 when 0 then 'INBOUND' else 'OUTBOUND' end, 'app', 'text', 'Seu pedido ' || n || ' foi enviado e chega amanhã', '{}',
       at - interval '3 ms', at
  from generate_series(%(first)s::bigint, %(last)s::bigint) as n
 cross join lateral (select timestamptz '2025-01-01' + n * (interval '729 days' / %(messages)s) as at) as t
"""
AT_ONCE = 500_000


def fill(connection: psycopg.Connection[Any], messages: int) -> None:
    """Blocks for minutes. The index of words is left out: no page reads it, and making it would take longer than all the rest."""
    connection.execute("drop index messages_by_words")
    connection.execute(_MONTHS, (MONTHS,))
    for first in range(0, messages, AT_ONCE):
        last = min(messages, first + AT_ONCE) - 1
        given = {"conversations": messages // A_CONVERSATION, "first": first, "last": last, "messages": messages}
        connection.execute(_MESSAGES, given)
    connection.execute("vacuum analyze messages")


def milliseconds(connection: psycopg.Connection[Any], messages: int, times: int, seed: int = 1) -> list[float]:
    """How long a page took, from any place of any conversation, `times` times in order."""
    choice = random.Random(seed)  # noqa: S311  # which pages are read is no secret
    found = []
    for _ in range(times):
        conversation = f"c{choice.randrange(messages // A_CONVERSATION):06d}"
        cursor = None
        # any page of the conversation, the first one included
        for _ in range(choice.randrange(A_CONVERSATION // PAGE)):
            cursor = conversation_messages(connection, TENANT, conversation, limit=PAGE, cursor=cursor).after
        began = time.perf_counter()
        page = conversation_messages(connection, TENANT, conversation, limit=PAGE, cursor=cursor)
        found.append((time.perf_counter() - began) * 1000)
        if len(page.items) != PAGE:
            raise SystemExit(f"nothing was measured: {len(page.items)} messages of conversation {conversation}")
    return found
