"""Writes the reports' part of docs/reports.md, and docs/images/report-<name>.svg: each report with its question, SQL, output and plot.

`python -m tools.report_pages` fills a ClickHouse database of its own with the example of tests/support/report_example.py, asks every
report and writes what came back. It uses the ClickHouse of CHAT4ALL_CLICKHOUSE_URL, else it starts one. A test fails while the page lacks a
report, or has another text, SQL or columns.
"""

import io
import random
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from clickhouse_connect.driver.client import Client
from rich.console import Console

from cli.report_plots import PLOTS, picture
from cli.report_tables import draw
from schemas.settings import Settings
from sinks.clickhouse import connect
from sinks.migrate import migrate_clickhouse
from sinks.report_catalog import ReportFile, reports
from sinks.report_queries import Question, ReportResult, ask
from stack.servers import SERVERS
from stack.service import Child
from tests.support.report_example import DAYS, example
from tests.support.report_seed import BASE

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "reports.md"
BEGIN, END = "<!-- reports -->\n", "<!-- end of reports -->\n"
WIDTH = 100
_SINCE = datetime.fromtimestamp(BASE / 1000, UTC)
QUESTION = Question(_SINCE, _SINCE + timedelta(days=DAYS), tenant="shop", worst_n=5)
# Of the long ones, the text shows a few hours of one channel.
FEW_HOURS = replace(
    QUESTION, since=_SINCE + timedelta(days=1, hours=14), until=_SINCE + timedelta(days=1, hours=17), channel="whatsapp"
)


def fill(client: Client) -> None:
    """Puts the example into a migrated database, each relation in one block."""
    example().insert(client, random.Random(0), blocks=1)  # noqa: S311  # an order, no secret


def answers(client: Client) -> dict[str, ReportResult]:
    """Every report of the example."""
    return {name: ask(client, name, FEW_HOURS if name.endswith("_by_hour") else QUESTION) for name in reports()}


def plots(client: Client) -> dict[str, bytes]:
    """The picture of every report that has one."""
    return {name: picture(ask(client, name, QUESTION), "svg") for name in PLOTS}


def section(result: ReportResult) -> str:
    """One report in Markdown."""
    report = result.report
    lines = [f"### {report.name}", "", f"**{report.question}** {report.about}", ""]
    if report.left_out:
        lines += [f"Left out: {report.left_out[0].lower()}{report.left_out[1:]}", ""]
    lines += ["```sql clickhouse", result.sql, "```", "", "```text", _output(result), "```", ""]
    if report.name in PLOTS:
        lines += [f"![{report.question}](images/report-{report.name}.svg)", ""]
    return "\n".join([*lines, *_columns(report)])


def _output(result: ReportResult) -> str:
    written = io.StringIO()
    draw(result, Console(file=written, width=WIDTH))
    lines = [line.rstrip() for line in written.getvalue().splitlines()]
    begin = next(n for n, line in enumerate(lines) if line.startswith(("from 20", "to 20")))
    return "\n".join(_cut(lines[begin:]))  # the question stands above


def _cut(lines: list[str], most: int = 26) -> list[str]:
    if len(lines) <= most:
        return lines
    return [*lines[: most - 3], f"... {len(lines) - most} more lines ...", *lines[-2:]]


def _columns(report: ReportFile) -> list[str]:
    cells = [f"| `{name}` | {meaning.replace('|', '&#124;')} |" for name, meaning in report.columns.items()]
    return [
        "<details><summary>Columns</summary>",
        "",
        "| column | meaning |",
        "| --- | --- |",
        *cells,
        "",
        "</details>",
        "",
    ]


def text(results: dict[str, ReportResult]) -> str:
    """What stands between the marks."""
    return "\n" + "\n".join(map(section, results.values())) + "\n"


@contextmanager
def server() -> Iterator[str]:
    """The URL of a ClickHouse: the configured one, else one of its own."""
    if configured := Settings().clickhouse_url:
        yield configured
        return
    with tempfile.TemporaryDirectory() as folder:
        child = Child(SERVERS["clickhouse"](Path(folder)))
        child.start()
        try:
            child.wait()
            yield child.service.settings["clickhouse_url"]
        finally:
            child.stop()


def main() -> None:
    name = f"example_{secrets.token_hex(6)}"
    with server() as url:
        root = connect(url)
        root.command(f"create database {name}")
        try:
            client = connect(urlunsplit(urlsplit(url)._replace(path=f"/{name}")))
            migrate_clickhouse(client)
            fill(client)
            results, drawn = answers(client), plots(client)
            client.close()
        finally:
            root.command(f"drop database {name}")
            root.close()
    for report, image in drawn.items():
        (DOCS / "images" / f"report-{report}.svg").write_bytes(image)
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(before + BEGIN + text(results) + END + rest.partition(END)[2], encoding="utf-8")
    print(f"wrote {PAGE.name} and {len(PLOTS)} plots", file=sys.stderr)


if __name__ == "__main__":
    main()
