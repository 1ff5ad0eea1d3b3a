"""The cursors of one conversation, in PostgreSQL and in the web view of table `cursors`: the two must agree when a run is quiet.

Enters: a connection to PostgreSQL, the URL of a core worker's views, a run. Leaves: both cursors of every member of the run's largest
conversation.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import psycopg

from tables.cursors import cursor_key

TIMEOUT_SECONDS = 10.0
Seqs = tuple[int | None, int | None]  # last_delivered_seq, last_read_seq


@dataclass(frozen=True, slots=True)
class MemberCursors:
    """One member's cursors as PostgreSQL and as the view have them."""

    member: str
    in_postgres: Seqs
    in_view: Seqs


def largest_conversation(connection: psycopg.Connection[Any], run_id: str) -> str | None:
    """The conversation of the run with the most cursors; None when there is none."""
    row = connection.execute(
        "select conversation_id from cursors where conversation_id like %s"
        " group by conversation_id order by count(*) desc, conversation_id limit 1",
        (f"{run_id}-%",),
    ).fetchone()
    return None if row is None else str(row[0])


def cursors_of(connection: psycopg.Connection[Any], views_url: str, conversation_id: str) -> Sequence[MemberCursors]:
    """Both cursors of each member, by member. Blocks. Raises OSError when the view does not answer."""
    rows = connection.execute(
        "select tenant_id, member, last_delivered_seq, last_read_seq from cursors where conversation_id = %s order by member",
        (conversation_id,),
    ).fetchall()
    return [
        MemberCursors(member, (delivered, read), _in_view(views_url, cursor_key(tenant_id, conversation_id, member)))
        for tenant_id, member, delivered, read in rows
    ]


def _in_view(views_url: str, key: str) -> Seqs:
    with urlopen(f"{views_url}/tables/cursors/{quote(key, safe='')}", timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310  # a worker's own view
        row = json.load(answer)["row"]
    return row["last_delivered_seq"], row["last_read_seq"]
