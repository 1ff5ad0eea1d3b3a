"""What must be right in PostgreSQL before a migration begins: one migration at a time, no sink that writes, and the right to an extension.

Enters: a connection of psycopg in autocommit mode, and the names of the files to apply. Leaves: nothing, or MigrationRefused with one
sentence. Guaranteed: only reads, except that `locked` holds an advisory lock until the connection closes. All functions block.
"""

from collections.abc import Collection
from typing import Any

import psycopg

from sinks.migration_files import MigrationRefused

LOCK = 4_201_841_042  # an arbitrary number, the same in every release: one migration at a time
WAIT_SECONDS = 60.0
APPLICATION = "chat4all-migrate"
# They copy whole relations: what a sink writes meanwhile would wait, or be missed.
WITHOUT_SINKS = frozenset({"postgres/0010_partitions.sql", "clickhouse/0006_daily.sql"})
# These need an extension: file -> name.
EXTENSIONS = {"postgres/0011_history.sql": "unaccent"}

_HOLDER = """
    select a.pid, coalesce(nullif(a.application_name, ''), 'no name') as application,
           coalesce(host(a.client_addr), 'this host') as host
      from pg_locks l join pg_stat_activity a using (pid)
     where l.locktype = 'advisory' and l.granted and l.objsubid = 1
       and (l.classid::bigint << 32) + l.objid::bigint = %s
       and l.database = (select oid from pg_database where datname = current_database())
"""
# Every release of stage archive makes temporary relations of these names when it connects. The number in the name of their schema is the
# session's, so relations that a crash left behind do not look like those of a session that lives.
_SINKS = """
    select distinct a.pid
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace and n.nspname ~ '^pg_temp_[0-9]+$'
      join pg_stat_activity a on a.pid = pg_stat_get_backend_pid(substring(n.nspname from 9)::integer) and a.datname = current_database()
     where c.relname like 'staged\\_%' and c.relpersistence = 't'
     order by a.pid
"""
_EXTENSION = """
    select exists (select from pg_extension where extname = %(name)s) as installed,
           exists (select from pg_available_extensions where name = %(name)s) as available,
           (select rolsuper from pg_roles where rolname = current_user)
           or (has_database_privilege(current_database(), 'create')
               and exists (select from pg_available_extension_versions where name = %(name)s and trusted)) as may,
           current_user, current_database()
"""


def locked(connection: psycopg.Connection[Any], wait_seconds: float = WAIT_SECONDS) -> None:
    """Takes the lock of migrations, which the connection holds until it closes. Blocks for at most `wait_seconds` while another migration
    runs; then raises MigrationRefused and names its session."""
    connection.execute("select set_config('lock_timeout', %s, false)", (f"{max(1, round(wait_seconds * 1000))}ms",))
    try:
        connection.execute("select pg_advisory_lock(%s)", (LOCK,))
    except psycopg.errors.LockNotAvailable:
        found = connection.execute(_HOLDER, (LOCK,)).fetchone()
        who = "another session" if found is None else f"session {found[0]} ({found[1]}, from {found[2]})"
        raise MigrationRefused(
            f"another migration runs: {who} has held the lock for more than {wait_seconds:g} s; wait until it ends, then run this again"
        ) from None
    connection.execute("set lock_timeout = 0")


def ready(connection: psycopg.Connection[Any], files: Collection[str]) -> None:
    """Checks what the files (`<database>/<name>`) need. Raises MigrationRefused."""
    # A database that gets its first file too is new, or was dropped and made again: there is nothing to copy.
    new = tuple(f"{file.partition('/')[0]}/" for file in files if "/0001_" in file)
    if copying := sorted(file for file in WITHOUT_SINKS.intersection(files) if not file.startswith(new)):
        _without_sinks(connection, copying)
    for file, extension in EXTENSIONS.items():
        if file in files:
            _with_extension(connection, file, extension)


def _without_sinks(connection: psycopg.Connection[Any], copying: list[str]) -> None:
    # Before version 16, a session's number cannot be found by it. There the operator stops the sinks (docs/history.md), as for ClickHouse.
    if connection.info.server_version < 160_000:
        return
    sessions = [str(row[0]) for row in connection.execute(_SINKS)]
    if sessions:
        raise MigrationRefused(
            f"{' and '.join(copying)} copy all rows, and a worker of kind sinks is connected (PostgreSQL session {', '.join(sessions)}): "
            "stop every worker of kind sinks, then run this again"
        )


def _with_extension(connection: psycopg.Connection[Any], file: str, extension: str) -> None:
    found = connection.execute(_EXTENSION, {"name": extension}).fetchone()
    installed, available, may, role, database = found or (False, False, False, "", "")
    if installed:
        return
    if not available:
        raise MigrationRefused(
            f"{file} needs the extension {extension}, which this PostgreSQL server lacks: let its administrator install PostgreSQL's "
            "contrib modules, then run this again"
        )
    if not may:
        raise MigrationRefused(
            f"{file} needs the extension {extension}, and role {role} may not create it: let an administrator run "
            f"`create extension {extension}` in database {database} once, then run this again"
        )
