"""One statement on the ClickHouse engine (chdb), with the settings and parameters of its own request.

Enters: a Query. Leaves: an Answer, or the engine's error, whose text starts with `Code: <n>`. Guaranteed: each query has an engine
handle of its own, so settings never leak into another one; the data after `INSERT ... FORMAT x` never pass through an SQL parser, and
an insert that a constraint or a view refuses is an error.
"""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chdb.state import connect

SETTING = re.compile(r"[A-Za-z_]\w*")
INSERT_WITH_DATA = re.compile(
    rb"\s*(?P<head>INSERT\s+INTO\s+(?:TABLE\s+|FUNCTION\s+)?(?:`[^`]*`|\"[^\"]*\"|[\w.])+\s*(?:\((?:`[^`]*`|\"[^\"]*\"|[^)`\"])*\))?"
    rb"\s*)(?P<settings>(?:SETTINGS\s+[^;]*?)?)\s*\bFORMAT\s+(?P<format>\w+)[ \t\r]*\n?",
    re.IGNORECASE,
)
FORMAT_CLAUSE = re.compile(rb"\bFORMAT\s+(\w+)\s*(?:SETTINGS\b[^;]*)?;?\s*$", re.IGNORECASE)
LEADING = re.compile(rb"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*", re.DOTALL)
DATA_PREFIX = "insert-"  # names the files of running inserts in the engine's folder
# First words of statements that have a result, even an empty one.
ANSWERS = (b"SELECT", b"WITH", b"SHOW", b"DESC", b"EXISTS", b"EXPLAIN", b"CHECK", b"FROM")


class Refused(Exception):
    """A query refused before it reached the engine; worded as the engine words its errors."""

    def __init__(self, code: int, name: str, sentence: str) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {sentence}. ({name})")


@dataclass(frozen=True)
class Query:
    """One statement with everything the request said about it."""

    sql: bytes
    database: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    default_format: str = "TabSeparated"


@dataclass(frozen=True)
class Answer:
    """The engine's result: bytes, their format ("" for a statement without a result), and the counters of the summary."""

    body: bytes
    format: str
    summary: dict[str, int]


def execute(path: str, query: Query) -> Answer:
    """Runs the query on the engine of `path`; blocks, and may be called from several threads at once."""
    with connect(path) as handle:
        for statement in _preparation(query):
            handle.query(statement, "TabSeparated")
        insert = INSERT_WITH_DATA.match(query.sql)
        if insert:
            return _insert(path, handle, insert, query.sql[insert.end() :])
        try:
            sql = query.sql.decode()
        except UnicodeDecodeError as error:
            raise Refused(62, "SYNTAX_ERROR", f"the query is not UTF-8 at byte {error.start}") from None
        result = handle.query(sql, query.default_format)
        body = result.bytes() or b""
        counters = {"read_rows": result.rows_read(), "read_bytes": result.bytes_read(), "result_bytes": len(body)}
        return Answer(body, _format_of_result(query), counters | _written(result))


def discard_unfinished(path: str) -> None:
    """Removes the data of inserts during which an earlier process was killed; to be called before the first query."""
    for file in Path(path).glob(f"{DATA_PREFIX}*"):
        file.unlink()


def _insert(path: str, handle: Any, insert: re.Match[bytes], data: bytes) -> Answer:
    """From a file, because the engine's send_insert() reports success for blocks that a constraint or a view refused."""
    head, settings, format_ = (insert[part].decode() for part in ("head", "settings", "format"))
    with tempfile.NamedTemporaryFile(dir=path, prefix=DATA_PREFIX) as file:
        file.write(data)
        file.flush()
        source = f"FROM INFILE {_quoted(str(Path(file.name).resolve()))} COMPRESSION 'none'"
        return Answer(b"", "", _written(handle.query(f"{head} {source} {settings} FORMAT {format_}", "TabSeparated")))


def _written(result: Any) -> dict[str, int]:
    written = {"written_rows": result.rows_written(), "written_bytes": result.bytes_written()}
    return {**written, "elapsed_ns": int(result.elapsed() * 1e9)}


def _preparation(query: Query) -> list[str]:
    """The statements that put a fresh handle into the state the request asks for."""
    pairs = {**query.settings, **{f"param_{name}": value for name, value in query.params.items()}}
    for name in pairs:
        if not SETTING.fullmatch(name):
            raise Refused(115, "UNKNOWN_SETTING", f"Unknown setting {_quoted(name)}")
    use = [f"USE `{query.database.replace('`', '``')}`"] if query.database else []
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
