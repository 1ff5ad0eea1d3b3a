"""Keeps the views of the reports in ClickHouse equal to the files of ddl/reports.

Enters: a client, and the folder. Leaves: the names of the files applied now. Guaranteed: it may be repeated and interrupted (each statement
is `create or replace`, and a file counts as applied after its last one); a changed file is applied again, because a view holds no data;
the views of a file that is gone are dropped. The caller holds the lock of sinks/migrate.py.
"""

import hashlib
import re
from pathlib import Path

from clickhouse_connect.driver.client import Client

from sinks.report_catalog import FOLDER, files

_REMEMBERED = (
    "create table if not exists applied_reports"
    " (name String, checksum String, views Array(String), applied_at DateTime64(9, 'UTC') default now64(9))"
    " engine = ReplacingMergeTree(applied_at) order by name"
)
_VIEW = re.compile(r"create or replace view (\w+) as\n")


def apply(client: Client, folder: Path = FOLDER) -> list[str]:
    """Applies the files that are new, changed, or whose view somebody dropped; drops the views of files that are gone. Returns the names of
    the applied files. Blocks. A folder that does not exist changes nothing. Errors of the client pass through."""
    if not folder.is_dir():
        return []
    client.command(_REMEMBERED)
    rows = client.query("select name, checksum, views from applied_reports final where checksum != ''").result_rows
    applied: dict[str, tuple[str, set[str]]] = {str(name): (checksum, set(views)) for name, checksum, views in rows}
    there = {
        str(row[0])
        for row in client.query("select name from system.tables where database = currentDatabase()").result_rows
    }
    done, wanted = [], set[str]()
    for path in files(folder):
        sql = path.read_text(encoding="utf-8")
        checksum, views = hashlib.sha256(sql.encode()).hexdigest(), _VIEW.findall(sql)
        wanted |= set(views)
        if applied.get(path.name, ("", set()))[0] == checksum and set(views) <= there:
            continue
        for statement in _statements(sql):
            client.command(statement)
        _remember(client, path.name, checksum, views)
        done.append(path.name)
    names = {path.name for path in files(folder)}
    for view in sorted(set().union(*(views for _, views in applied.values())) - wanted):
        client.command(f"drop view if exists {view}")
    for name in sorted(set(applied) - names):
        _remember(client, name, "", [])
    return done


def _remember(client: Client, name: str, checksum: str, views: list[str]) -> None:
    client.insert("applied_reports", [[name, checksum, views]], column_names=["name", "checksum", "views"])


def _statements(sql: str) -> list[str]:
    """Each statement ends with a semicolon at the end of a line; comments stay out of the views."""
    lines = [line for line in sql.splitlines() if not line.lstrip().startswith("--")]
    return [statement.strip() for statement in "\n".join([*lines, ""]).split(";\n") if statement.strip()]
