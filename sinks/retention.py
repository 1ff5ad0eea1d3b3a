"""Deletes what is older than retention from both databases: `python -m sinks.retention --apply`.

Enters: the URLs, retention (CHAT4ALL_RETENTION_DAYS and CHAT4ALL_TENANT_RETENTION), and the present time. Leaves: a sentence for each thing
that is, or was, deleted; with `apply` a row of `operator_actions`. Guaranteed: only one runs at a time; whole months are dropped for all
relations at once, so that no message stays without its deliveries; an interruption can be continued by running it again; the sinks wait for
a moment at most. Blocks.
"""

import argparse
import getpass
import json
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime

import psycopg
from pydantic import ValidationError

from schemas import access_errors
from schemas.retention_days import Retention, retention_in
from schemas.settings import MissingSetting, Settings, wrong
from sinks import fact_retention, months, old_rows
from sinks.clickhouse import connect
from sinks.sink_errors import NotMigrated, Unavailable, sentence

_LOCK = 4_201_841_044  # an arbitrary number, the same in every release: one retention at a time
_LOCK_SECONDS = 3  # for which the sinks wait behind a month that is being dropped
_TRIES = 10
NOTHING_SET = "nothing is deleted: set CHAT4ALL_RETENTION_DAYS or CHAT4ALL_TENANT_RETENTION"


def retain(
    postgres_url: str, clickhouse_url: str, retention: Retention, now: datetime, *, operator: str, apply: bool
) -> list[str]:
    """Deletes with `apply`, else only looks. Returns what is, or was, deleted. `now` has a time zone. Raises Unavailable, also when another
    retention is running, and NotMigrated."""
    with _connected(postgres_url) as connection:
        client = connect(clickhouse_url)
        try:
            if not apply:
                return [
                    *_looked(connection, retention, now),
                    *fact_retention.retain(client, retention, now, apply=False),
                ]
            action = _begun(connection, retention, operator)
            done = _applied(connection, retention, now)
            done += fact_retention.retain(client, retention, now, apply=True)
            connection.execute(
                "update operator_actions set ended_at = now(), result = %s where action_id = %s",
                (json.dumps({"deleted": done}), action),
            )
            return done
        finally:
            client.close()


@contextmanager
def _connected(url: str) -> Iterator[psycopg.Connection]:
    server = access_errors.of_url("PostgreSQL", url)
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
            locked = connection.execute("select pg_try_advisory_lock(%s)", (_LOCK,)).fetchone()
            if not locked or not locked[0]:
                raise Unavailable("another retention is running: wait until it has ended")
            yield connection
    except psycopg.errors.UndefinedTable as error:
        raise NotMigrated(
            f"PostgreSQL lacks our relations, run `python -m sinks.migrate`: {sentence(error)}"
        ) from error
    except psycopg.OperationalError as error:
        raise Unavailable(access_errors.access_error(server, error)) from error


def _begun(connection: psycopg.Connection, retention: Retention, operator: str) -> str:
    action = f"retention-{uuid.uuid4()}"
    detail = {"days": retention.days, "tenants": dict(retention.tenants)}
    connection.execute(
        "insert into operator_actions (action_id, action, tenant_id, operator, detail) values (%s, 'retention', '', %s, %s)",
        (action, operator, json.dumps(detail)),
    )
    return action


def _to_drop(connection: psycopg.Connection, retention: Retention, now: datetime) -> list[date]:
    partitions = [name for (name,) in connection.execute(months.EXISTING)]
    return months.to_drop(partitions, retention.longest, now)


def _looked(connection: psycopg.Connection, retention: Retention, now: datetime) -> list[str]:
    found = [f"postgres: month {month:%Y-%m}" for month in _to_drop(connection, retention, now)]
    counted = old_rows.count_old(connection, retention, now)
    return found + [f"postgres {name}: {number} rows" for name, number in sorted(counted.items())]


def _applied(connection: psycopg.Connection, retention: Retention, now: datetime) -> list[str]:
    connection.execute(months.MAKE_MONTHS)
    for (month,) in connection.execute(months.MONTHS_IN_OTHER).fetchall():
        connection.execute("select create_month(%s)", (month,))
    done = []
    for month in _to_drop(connection, retention, now):
        _drop(connection, month)
        done.append(f"postgres: month {month:%Y-%m}")
    deleted = old_rows.delete_old(connection, retention, now)
    return done + [f"postgres {name}: {number} rows" for name, number in sorted(deleted.items())]


def _drop(connection: psycopg.Connection, month: date) -> None:
    """Waits for the locks a few seconds at a time, so that what waits behind it, the sinks among it, goes on in between. Raises Unavailable
    when somebody holds a relation for long."""
    for attempt in range(1, _TRIES + 1):
        try:
            with connection.transaction():
                connection.execute(f"set local lock_timeout = '{_LOCK_SECONDS}s'".encode())
                connection.execute(months.LOCK_ALL.encode())
                connection.execute(months.drop_month(month).encode())
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            time.sleep(attempt * 0.2)
        else:
            return
    raise Unavailable(
        f"month {month:%Y-%m} is not dropped: somebody reads the messages without an end (pg_stat_activity shows who); run this again later"
    )


def operator_name() -> str:
    """The user of the operating system."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return "unknown"


def main() -> int:
    """Prints one line for each thing; without `--apply` nothing is changed."""
    parser = argparse.ArgumentParser(prog="python -m sinks.retention", description=__doc__)
    parser.add_argument("--apply", action="store_true", help="delete; without it, only say what would be deleted")
    parser.add_argument("--operator", default="", help="who does it, for operator_actions; else the user of the system")
    given = parser.parse_args()
    try:
        settings = Settings()
        settings.require("postgres_url", "clickhouse_url")
        retention = retention_in(settings.retention_days, settings.tenant_retention)
        found = (
            retain(
                settings.postgres_url,
                settings.clickhouse_url,
                retention,
                datetime.now(UTC),
                operator=given.operator or operator_name(),
                apply=given.apply,
            )
            if retention
            else []
        )
    except (ValidationError, MissingSetting, Unavailable, NotMigrated) as error:
        print(wrong(error) if isinstance(error, ValidationError) else error, file=sys.stderr)  # noqa: T201  # output of a command
        return 2
    for line in said(found, retention, apply=given.apply):
        print(line)  # noqa: T201  # the same
    return 0


def said(found: list[str], retention: Retention, *, apply: bool) -> list[str]:
    """The lines that a command prints."""
    if not retention:
        return [NOTHING_SET]
    if apply:
        return [*(f"deleted {each}" for each in found), "" if found else "nothing was old enough"]
    return [
        *(f"would delete {each}" for each in found),
        "nothing was changed; --apply deletes" if found else "nothing is old enough",
    ]


if __name__ == "__main__":
    sys.exit(main())
