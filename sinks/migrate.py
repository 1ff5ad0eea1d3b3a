"""Applies the numbered SQL of ddl/postgres and ddl/clickhouse, each file once.

Enters: the two URLs. Leaves: the names of the files applied now. Guaranteed: two may run at once (an advisory lock of PostgreSQL makes one
wait for the other, for both databases); it is harmless to repeat; it refuses, in one sentence, when an applied file was changed. Each
PostgreSQL file is one transaction. ClickHouse has no such transaction: each statement of a ClickHouse file can be run again
(`if not exists`, `or replace`), and a file counts as applied only after its last statement.

All functions block and are meant for a command, not for an event loop.
"""

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
from clickhouse_connect.driver.client import Client
from pydantic import ValidationError

from schemas import access_errors
from schemas.settings import MissingSetting, Settings, wrong
from sinks import report_views
from sinks.clickhouse import connect
from sinks.sink_errors import Unavailable

DDL = Path(__file__).parent / "ddl"
_LOCK = 4_201_841_042  # an arbitrary number, the same in every release: one migration at a time


class ChangedMigration(Exception):
    """The content of an applied file has changed. Nothing was applied to that database."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations(database: str, folder: Path = DDL) -> list[Migration]:
    """The files of one database (`postgres` or `clickhouse`) in the order of their numbers. Raises ValueError for two files with one
    number."""
    found = [Migration(p.name, p.read_text(encoding="utf-8")) for p in sorted((folder / database).glob("*.sql"))]
    numbers = [m.name.split("_")[0] for m in found]
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"two files of {database} have the same number: {', '.join(m.name for m in found)}")
    return found


def check(postgres_url: str, clickhouse_url: str) -> None:
    """Connects to both databases and disconnects. Raises Unavailable when one cannot be reached or refuses the connection."""
    _postgres(postgres_url).close()
    connect(clickhouse_url).close()


def _postgres(url: str) -> psycopg.Connection:
    try:
        return psycopg.connect(url, autocommit=True, connect_timeout=10)
    # ProgrammingError: the URL has an unknown option.
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        raise Unavailable(access_errors.access_error(access_errors.of_url("PostgreSQL", url), error)) from error


def migrate(postgres_url: str, clickhouse_url: str, folder: Path = DDL) -> list[str]:
    """Applies the missing files to both databases, PostgreSQL first, and returns `<database>/<file>` of each. Waits for another
    migration that runs. Raises Unavailable, ChangedMigration, or a driver's error when a statement fails: then the files before it stay
    applied."""
    with _postgres(postgres_url) as connection:
        connection.execute("select pg_advisory_lock(%s)", (_LOCK,))  # held until the connection closes
        applied = [f"postgres/{name}" for name in migrate_postgres(connection, folder)]
        client = connect(clickhouse_url)
        try:
            return applied + [f"clickhouse/{name}" for name in migrate_clickhouse(client, folder)]
        finally:
            client.close()


def migrate_postgres(connection: psycopg.Connection, folder: Path = DDL) -> list[str]:
    """Applies PostgreSQL's missing files, one transaction each. The caller holds the lock; the connection must be in autocommit mode."""
    connection.execute(
        "create table if not exists applied_migrations"
        " (name text primary key, checksum text not null, applied_at timestamptz not null default now())"
    )
    rows = connection.execute("select name, checksum from applied_migrations").fetchall()

    def run(migration: Migration) -> None:
        with connection.transaction():
            connection.execute(migration.sql.encode())
            connection.execute(
                "insert into applied_migrations (name, checksum) values (%s, %s)", (migration.name, migration.checksum)
            )

    return _apply("postgres", folder, dict(rows), run)


def migrate_clickhouse(client: Client, folder: Path = DDL) -> list[str]:
    """Applies ClickHouse's missing files, and what changed of the reports. The caller holds the lock."""
    client.command(
        "create table if not exists applied_migrations (name String, checksum String, applied_at DateTime64(3, 'UTC') default now64(3))"
        " engine = MergeTree order by name"
    )
    rows = client.query("select name, checksum from applied_migrations").result_rows

    def run(migration: Migration) -> None:
        for statement in statements(migration.sql):
            client.command(statement)
        client.insert("applied_migrations", [[migration.name, migration.checksum]], column_names=["name", "checksum"])

    applied = _apply("clickhouse", folder, {str(row[0]): str(row[1]) for row in rows}, run)
    report_views.apply(client, folder / "reports")
    return applied


def statements(sql: str) -> list[str]:
    """The statements of a ClickHouse file, because ClickHouse takes one at a time. Each ends with a semicolon at the end of a line."""
    lines = [line for line in sql.splitlines() if not line.lstrip().startswith("--")]
    return [statement.strip() for statement in "\n".join([*lines, ""]).split(";\n") if statement.strip()]


def _apply(database: str, folder: Path, applied: Mapping[str, str], run: Callable[[Migration], None]) -> list[str]:
    files = migrations(database, folder)
    for migration in files:  # check all before any is applied: a refusal changes nothing
        if applied.get(migration.name, migration.checksum) != migration.checksum:
            raise ChangedMigration(
                f"{database}/{migration.name} was changed after it was applied: restore it, and put the change into the next number"
            )
    missing = [migration for migration in files if migration.name not in applied]
    for migration in missing:
        run(migration)
    return [migration.name for migration in missing]


def main() -> int:
    """`python -m sinks.migrate`: applies the missing files to the configured databases."""
    try:
        settings = Settings()
        settings.require("postgres_url", "clickhouse_url")
        applied = migrate(settings.postgres_url, settings.clickhouse_url)
    except (ValidationError, MissingSetting, Unavailable, ChangedMigration) as error:
        print(wrong(error) if isinstance(error, ValidationError) else error, file=sys.stderr)  # noqa: T201  # output of a command
        return 1
    print("\n".join(f"applied {name}" for name in applied) or "nothing to apply")  # noqa: T201  # the same
    return 0


if __name__ == "__main__":
    sys.exit(main())
