"""Runs one statement on the ClickHouse engine (chdb), with the settings and parameters of its request.

Enters: a Query. Leaves: a QueryAnswer, or the engine's error, whose text starts with `Code: <n>`. Guaranteed: each query has its own engine
handle, so settings never leak into another query; no SQL parser sees the data after `INSERT ... FORMAT x`; an insert that a constraint or a
view refuses is an error. It takes one statement, as ClickHouse's HTTP interface does, and none that reaches outside
(stack/clickhouse_rights.py).
"""

import re
import tempfile
import threading
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from chdb.state import connect

from stack.clickhouse_rights import reaches, users

SETTING = re.compile(r"[A-Za-z_]\w*")
INSERT_WITH_DATA = re.compile(
    rb"\s*(?P<head>INSERT\s+INTO\s+(?:TABLE\s+|FUNCTION\s+)?(?:`[^`]*`|\"[^\"]*\"|[\w.])+\s*(?:\((?:`[^`]*`|\"[^\"]*\"|[^)`\"])*\))?"
    rb"\s*)(?P<settings>(?:SETTINGS\s+[^;]*?)?)\s*\bFORMAT\s+(?P<format>\w+)[ \t\r]*\n?",
    re.IGNORECASE,
)
FORMAT_CLAUSE = re.compile(rb"\bFORMAT\s+(\w+)\s*(?:SETTINGS\b[^;]*)?;?\s*$", re.IGNORECASE)
LEADING = re.compile(rb"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*", re.DOTALL)
DATA_PREFIX = "insert-"  # names the files of running inserts in the engine's folder
# First words of statements that have a result, which may be empty.
ANSWERS = (b"SELECT", b"WITH", b"SHOW", b"DESC", b"EXISTS", b"EXPLAIN", b"CHECK", b"FROM")


class QueryRefused(Exception):
    """A query that was refused before it reached the engine. Its text has the form of the engine's errors."""

    def __init__(self, code: int, name: str, sentence: str) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {sentence}. ({name})")


@dataclass(frozen=True)
class Query:
    """One statement, with the database, settings, parameters and format of its request."""

    sql: bytes
    database: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    default_format: str = "TabSeparated"


@dataclass(frozen=True)
class QueryAnswer:
    """The engine's result: bytes, their format ("" for a statement without a result), and ClickHouse's counters for the summary."""

    body: bytes
    format: str
    summary: dict[str, int]


def opened(path: str) -> Any:
    """A handle of the engine of `path`. The first one starts the engine, with the rights of stack/clickhouse_rights.py."""
    return connect(f"file:{path}?config-file={_configuration()}")


@cache
def _configuration() -> Path:
    """The engine's configuration file, written once. The default database of an engine without a server shows the files of a folder as
    tables. Therefore it is not `default` but another database, on whose files no user has rights."""
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    config, its_users = folder / "config.xml", folder / "users.xml"
    its_users.write_text(f"<clickhouse>{users()}</clickhouse>", encoding="utf-8")
    names = f"<users_config>{escape(str(its_users))}</users_config><default_database>files</default_database>"
    config.write_text(f"<clickhouse>{names}</clickhouse>", encoding="utf-8")
    return config


def keep_default(path: str) -> None:
    """Makes `default` an ordinary database. Call it before the engine is opened. A `default` of an earlier release keeps its tables."""
    metadata = Path(path) / "metadata"
    link, file = metadata / "default", metadata / "default.sql"
    if not file.exists():
        metadata.mkdir(parents=True, exist_ok=True)
        identity = link.readlink().name if link.is_symlink() else uuid.uuid4()
        file.write_text(f"ATTACH DATABASE _ UUID '{identity}'\nENGINE = Atomic\n", encoding="utf-8")
    if link.is_symlink():
        link.unlink()  # the engine makes it again; at its start it would take it for the other database's


def execute(path: str, query: Query) -> QueryAnswer:
    """Runs the query on the engine of `path`. Blocks; several threads may call it at the same time. Raises QueryRefused, or the engine's
    error."""
    insert = INSERT_WITH_DATA.match(query.sql)
    try:
        sql = (insert[0] if insert else query.sql).decode()
    except UnicodeDecodeError as error:
        raise QueryRefused(62, "SYNTAX_ERROR", f"the query is not UTF-8 at byte {error.start}") from None
    refuse_reaching(path, sql, query.params.values())
    with opened(path) as handle:
        for statement in _preparation(query):
            handle.query(statement, "TabSeparated")
        if insert:
            return _insert(path, handle, insert, query.sql[insert.end() :])
        result = handle.query(sql, query.default_format)
        body = result.bytes() or b""
        counters = {"read_rows": result.rows_read(), "read_bytes": result.bytes_read(), "result_bytes": len(body)}
        return QueryAnswer(body, _format_of_result(query), counters | _written(result))


_handles = threading.local()  # for formatQuery: settings of a request must not change its result


def refuse_reaching(path: str, sql: str, given: Iterable[str] = ()) -> None:
    """Raises QueryRefused for a statement that would reach outside, for several statements, and for text that is no statement."""
    if not hasattr(_handles, "plain"):
        _handles.plain = opened(path)
        _handles.plain.query("SET max_query_size = 4294967296", "TabSeparated")
    try:
        normal = _handles.plain.query(f"SELECT formatQuery({_quoted(sql)})", "TSVRaw").bytes().decode()
    except RuntimeError as error:
        raise _of_the_query(str(error)) from None
    if what := reaches(normal, given):
        raise QueryRefused(497, "ACCESS_DENIED", f"{what} is not allowed on this server: it would reach outside of it")


def _of_the_query(error: str) -> Exception:
    """formatQuery's error about the query, without its text about the function formatQuery itself."""
    found = re.search(
        r"Code: (\d+)\. DB::Exception: (.*?)(?:: In scope SELECT formatQuery.*)?\. \((\w+)\)\s*$", error, re.DOTALL
    )
    return QueryRefused(int(found[1]), found[3], found[2]) if found else RuntimeError(error)


def discard_unfinished(path: str) -> None:
    """Removes the data of inserts that a killed process left. Call it before the first query."""
    for file in Path(path).glob(f"{DATA_PREFIX}*"):
        file.unlink()


def _insert(path: str, handle: Any, insert: re.Match[bytes], data: bytes) -> QueryAnswer:
    """Inserts from a file, because the engine's send_insert() reports success for blocks that a constraint or a view refused."""
    head, settings, format_ = (insert[part].decode() for part in ("head", "settings", "format"))
    with tempfile.NamedTemporaryFile(dir=path, prefix=DATA_PREFIX) as file:
        file.write(data)
        file.flush()
        source = f"FROM INFILE {_quoted(str(Path(file.name).resolve()))} COMPRESSION 'none'"
        return QueryAnswer(
            b"", "", _written(handle.query(f"{head} {source} {settings} FORMAT {format_}", "TabSeparated"))
        )


def _written(result: Any) -> dict[str, int]:
    written = {"written_rows": result.rows_written(), "written_bytes": result.bytes_written()}
    return {**written, "elapsed_ns": int(result.elapsed() * 1e9)}


def _preparation(query: Query) -> list[str]:
    """The statements that give a new handle the database, settings and parameters of the request."""
    pairs = {**query.settings, **{f"param_{name}": value for name, value in query.params.items()}}
    for name in pairs:
        if not SETTING.fullmatch(name):
            raise QueryRefused(115, "UNKNOWN_SETTING", f"Unknown setting {_quoted(name)}")
    use = [f"USE `{(query.database or 'default').replace('`', '``')}`"]
    return use + ([f"SET {', '.join(f'{name} = {_quoted(value)}' for name, value in pairs.items())}"] if pairs else [])


def _format_of_result(query: Query) -> str:
    start = LEADING.match(query.sql)
    first_word = query.sql[start.end() if start else 0 :][:8].upper()
    if not first_word.startswith(ANSWERS):
        return ""
    explicit = FORMAT_CLAUSE.search(query.sql)
    return explicit[1].decode() if explicit else query.default_format


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
