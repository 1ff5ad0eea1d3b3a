"""Applies the numbered SQL of ddl/postgres and ddl/clickhouse, each file once.

Enters: the two URLs. Leaves: the names of the files applied now. Guaranteed: two may run at once (an advisory lock of PostgreSQL makes one
wait for the other, for both databases, for a limited time); it is harmless to repeat. Before the first file is applied, it refuses, in one
sentence: files that were changed, are missing, are out of order or have another name (sinks/migration_files.py), and servers that are not
ready for them (sinks/migration_guards.py). Each PostgreSQL file is one transaction. ClickHouse has no such transaction: each statement of a
ClickHouse file can be run again (`if not exists`, `or replace`), and a file counts as applied only after its last statement.

All functions block and are meant for a command, not for an event loop.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import psycopg
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from pydantic import ValidationError

from schemas import access_errors
from schemas.settings import MissingSetting, Settings, wrong
from sinks import migration_guards, report_views
from sinks.clickhouse import connect
from sinks.migration_files import DDL, Migration, MigrationRefused, migrations, missing
from sinks.sink_errors import Unavailable, sentence


class MigrationFailed(Exception):
    """A statement of a file failed; the text says which file and why. The files before it stay applied. Of a PostgreSQL file nothing is
    left; a ClickHouse file begins anew in the next run."""


def check(postgres_url: str, clickhouse_url: str) -> None:
    """Connects to both databases and disconnects. Raises Unavailable when one cannot be reached or refuses the connection."""
    _postgres(postgres_url).close()
    connect(clickhouse_url).close()


def _postgres(url: str) -> psycopg.Connection:
    try:
        return psycopg.connect(url, autocommit=True, connect_timeout=10, application_name=migration_guards.APPLICATION)
    # ProgrammingError: the URL has an unknown option.
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        raise Unavailable(access_errors.access_error(access_errors.of_url("PostgreSQL", url), error)) from error


def migrate(
    postgres_url: str, clickhouse_url: str, folder: Path = DDL, *, wait_seconds: float = migration_guards.WAIT_SECONDS
) -> list[str]:
    """Applies the missing files to both databases, PostgreSQL first, and returns `<database>/<file>` of each. Waits at most `wait_seconds`
    for another migration that runs. Raises Unavailable or MigrationRefused, and then nothing was changed; or MigrationFailed."""
    with _postgres(postgres_url) as connection:
        migration_guards.locked(connection, wait_seconds)
        client = connect(clickhouse_url)
        try:
            to_apply = _planned(connection, client, folder)
            migration_guards.ready(connection, to_apply)
            applied = [f"postgres/{name}" for name in migrate_postgres(connection, folder)]
            applied += [f"clickhouse/{name}" for name in migrate_clickhouse(client, folder)]
        finally:
            client.close()
    return applied


def planned(postgres_url: str, clickhouse_url: str, folder: Path = DDL) -> list[str]:
    """What `migrate` would apply now, as `<database>/<file>`, in order; changes nothing and takes no lock. Raises Unavailable or
    MigrationRefused, as `migrate` would."""
    with _postgres(postgres_url) as connection:
        client = connect(clickhouse_url)
        try:
            to_apply = _planned(connection, client, folder)
            migration_guards.ready(connection, to_apply)
        finally:
            client.close()
    return to_apply


def _planned(connection: psycopg.Connection, client: Client, folder: Path) -> list[str]:
    applied = {"postgres": _applied_to_postgres(connection), "clickhouse": _applied_to_clickhouse(client)}
    return [
        f"{database}/{migration.name}"
        for database, names in applied.items()
        for migration in missing(database, migrations(database, folder), names)
    ]


def migrate_postgres(connection: psycopg.Connection, folder: Path = DDL) -> list[str]:
    """Applies PostgreSQL's missing files, one transaction each. The caller holds the lock; the connection must be in autocommit mode.
    Raises MigrationRefused or MigrationFailed."""
    to_apply = missing("postgres", migrations("postgres", folder), _applied_to_postgres(connection))
    connection.execute(
        "create table if not exists applied_migrations"
        " (name text primary key, checksum text not null, applied_at timestamptz not null default now())"
    )
    for migration in to_apply:
        try:
            with connection.transaction():
                connection.execute(migration.sql.encode())
                connection.execute(
                    "insert into applied_migrations (name, checksum) values (%s, %s)",
                    (migration.name, migration.checksum),
                )
        except psycopg.Error as error:
            raise _failed("postgres", migration, error) from error
    return [migration.name for migration in to_apply]


def migrate_clickhouse(client: Client, folder: Path = DDL) -> list[str]:
    """Applies ClickHouse's missing files, and what changed of the reports. The caller holds the lock. Raises MigrationRefused or
    MigrationFailed."""
    to_apply = missing("clickhouse", migrations("clickhouse", folder), _applied_to_clickhouse(client))
    client.command(
        "create table if not exists applied_migrations (name String, checksum String, applied_at DateTime64(3, 'UTC') default now64(3))"
        " engine = MergeTree order by name"
    )
    for migration in to_apply:
        try:
            for statement in statements(migration.sql):
                client.command(statement)
            client.insert(
                "applied_migrations", [[migration.name, migration.checksum]], column_names=["name", "checksum"]
            )
        except ClickHouseError as error:
            raise _failed("clickhouse", migration, error) from error
    report_views.apply(client, folder / "reports")
    return [migration.name for migration in to_apply]


def _failed(database: str, migration: Migration, error: Exception) -> MigrationFailed:
    return MigrationFailed(
        f"{database}/{migration.name} was not applied: {sentence(error).rstrip('.')}; the files before it stay applied, so run this again "
        "when the cause is removed"
    )


def _applied_to_postgres(connection: psycopg.Connection) -> Mapping[str, str]:
    """The applied files, name -> checksum; none in a new database."""
    found = connection.execute("select to_regclass('applied_migrations') is not null").fetchone()
    if not (found and found[0]):
        return {}
    return dict(connection.execute("select name, checksum from applied_migrations").fetchall())


def _applied_to_clickhouse(client: Client) -> Mapping[str, str]:
    if not client.command("exists table applied_migrations"):
        return {}
    rows = client.query("select name, checksum from applied_migrations").result_rows
    return {str(name): str(checksum) for name, checksum in rows}


def statements(sql: str) -> list[str]:
    """The statements of a ClickHouse file, because ClickHouse takes one at a time. Each ends with a semicolon at the end of a line."""
    lines = [line for line in sql.splitlines() if not line.lstrip().startswith("--")]
    return [statement.strip() for statement in "\n".join([*lines, ""]).split(";\n") if statement.strip()]


def main(arguments: list[str] | None = None) -> int:
    """`python -m sinks.migrate`: applies the missing files to the configured databases. `--check` only lists them. Returns 0 when the
    databases are as the files say, 1 when it refused, failed or, with `--check`, found something to apply."""
    parser = argparse.ArgumentParser(
        prog="python -m sinks.migrate", description="Bring both databases to this release."
    )
    parser.add_argument("--check", action="store_true", help="list what would be applied, and change nothing")
    parser.add_argument(
        "--wait",
        type=float,
        default=migration_guards.WAIT_SECONDS,
        metavar="SECONDS",
        help="wait this long for another migration that runs (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        settings = Settings()
        settings.require("postgres_url", "clickhouse_url")
        if options.check:
            names = planned(settings.postgres_url, settings.clickhouse_url)
        else:
            names = migrate(settings.postgres_url, settings.clickhouse_url, wait_seconds=options.wait)
    except (ValidationError, MissingSetting, Unavailable, MigrationRefused, MigrationFailed) as error:
        print(wrong(error) if isinstance(error, ValidationError) else error, file=sys.stderr)  # noqa: T201  # output of a command
        return 1
    did = "would apply" if options.check else "applied"
    print("\n".join(f"{did} {name}" for name in names) or "nothing to apply")  # noqa: T201  # the same
    return 1 if options.check and names else 0


if __name__ == "__main__":
    sys.exit(main())
