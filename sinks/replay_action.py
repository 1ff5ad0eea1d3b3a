"""The row of `operator_actions` that a replay leaves: who did what, from when to when, and the result.

Enters: what the command was asked. Leaves: one row, without an end while the replay runs or after it was interrupted. Blocks; raises
Unavailable or NotMigrated.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sinks.check_look import connected, errors_of_postgres


@contextmanager
def recorded(postgres_url: str, action_id: str, operator: str, detail: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Writes the row at once, and its end with what the block has put into the dict it gets. An error leaves the row without an end."""
    begun = "insert into operator_actions (action_id, action, tenant_id, operator, detail) values (%s, 'replay', '', %s, %s)"
    _run(postgres_url, begun, (action_id, operator, json.dumps(detail)))
    result: dict[str, Any] = {}
    yield result
    ended = "update operator_actions set ended_at = now(), result = %s where action_id = %s"
    _run(postgres_url, ended, (json.dumps(result), action_id))


def _run(url: str, sql: str, values: tuple[Any, ...]) -> None:
    with errors_of_postgres(), connected(url) as connection:
        connection.execute(sql.encode(), values)
