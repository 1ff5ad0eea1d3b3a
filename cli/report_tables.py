"""A report for people: tables that fit 100 columns, and plain text for CSV and JSON.

Enters: a ReportResult. Leaves: rich tables, or text. Guaranteed: units are in the headings; a table leaves out the tenant when all rows
have the same; CSV (RFC 4180) and JSON have every column, times in ISO 8601 UTC, and nothing rounded.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sinks.report_queries import ReportResult

# A column's last word -> its unit in the heading.
_UNITS = {"ms": "ms", "share": "%", "at": "UTC", "hour": "UTC", "minute": "UTC", "bytes": "bytes"}
_KEPT_WORDS = {"hour", "minute", "at"}  # these words stay in the heading
WIDTH = 100  # characters, of an ordinary terminal


def draw(result: ReportResult, console: Console) -> None:
    """Prints the question, the range, and the tables; or that there is nothing, and what to check."""
    report, question = result.report, result.question
    console.print(report.question, style="bold", highlight=False)
    grain = f", in whole {report.grain}s" if report.grain else ""
    of = [f"{name} {getattr(question, name)}" for name in ("tenant", "channel", "account") if getattr(question, name)]
    since = "" if "since" in report.ignores else f"from {_time(question.since)} "
    console.print(
        f"{since}to {_time(question.until)} UTC{grain}{''.join(f', {each}' for each in of)}",
        highlight=False,
        markup=False,
    )
    if not result.rows:
        console.print(
            "no rows; if you expected some, check the range (--from, --to), the names in --tenant, --channel and --account, and"
            " that the sinks run (chat4all status)",
            highlight=False,
        )
        return
    tenants = {row.get("tenant_id") for row in result.rows}
    hidden = {"tenant_id"} if len(tenants) == 1 else set()
    tables = report.tables or (tuple(report.columns),)
    for columns in tables:
        shown_columns = [column for column in columns if column not in hidden]
        console.print(table(result, shown_columns, max(WIDTH, console.width)))
    if hidden and "tenant_id" in report.columns and not question.tenant:
        console.print(f"tenant: {next(iter(tenants))}", highlight=False, markup=False)
    shown = {column for columns in tables for column in columns} | hidden
    if more := [column for column in report.columns if column not in shown]:
        console.print(f"--csv and --json also have: {', '.join(more)}", highlight=False)


def table(result: ReportResult, columns: Sequence[str], width: int = WIDTH) -> Table:
    """These columns of all rows. Cells and the words of headings stay whole when all of them fit into `width` characters; ids may break."""
    cells = {column: [_cell(column, row[column]) for row in result.rows] for column in columns}
    widths = _widths(cells, width)
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in columns:
        is_text = any(isinstance(row[column], str) for row in result.rows)
        drawn.add_column(
            heading(column), justify="left" if is_text else "right", overflow="fold", width=widths.get(column)
        )
    for line in zip(*cells.values(), strict=True):
        drawn.add_row(*map(escape, line))
    return drawn


def _widths(cells: Mapping[str, Sequence[str]], width: int) -> dict[str, int]:
    """The width of each column; empty when they do not fit, so that rich breaks cells. The rest of the room goes to long headings,
    evenly, so that they take fewer lines."""
    widths = {}
    for column, texts in cells.items():
        whole = heading(column).split() if column.endswith("_id") else [*heading(column).split(), *texts]
        widths[column] = max(map(len, whole))
    room = width - sum(widths.values()) - 2 * len(widths) + 1  # between two columns are two spaces
    if room < 0:
        return {}
    wanted = {column: max(len(heading(column)), *map(len, texts)) for column, texts in cells.items()}
    while room > 0 and (narrow := [column for column in widths if widths[column] < wanted[column]]):
        for column in narrow[:room]:
            widths[column] += 1
        room -= len(narrow[:room])
    return widths


def heading(column: str) -> str:
    """`accept_to_sent_p95_ms` -> `accept to sent p95 (ms)`."""
    *words, last = column.split("_")
    unit = _UNITS.get(last, "")
    kept = [*words, last] if not unit or last in _KEPT_WORDS else words
    return " ".join(kept).removesuffix(" id") + (f" ({unit})" if unit else "")


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return _time(value)
    if isinstance(value, float):
        return (
            f"{value:.2%}"[:-1]
            if column.endswith("_share")
            else f"{value:,.0f}"
            if column.endswith("_ms")
            else f"{value:,.2f}"
        )
    return f"{value:,}" if isinstance(value, int) else str(value)


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}".removesuffix(":00")


def as_csv(result: ReportResult) -> str:
    """The heading and the rows; lines end in CR LF. A null is an empty field."""
    written = io.StringIO(newline="")
    writer = csv.writer(written)
    writer.writerow(result.report.columns)
    writer.writerows(["" if value is None else _plain(value) for value in row.values()] for row in result.rows)
    return written.getvalue()


def as_json(result: ReportResult) -> str:
    """A list of objects, one a row."""
    rows = [{column: _plain(value) for column, value in row.items()} for row in result.rows]
    return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"
    return value
