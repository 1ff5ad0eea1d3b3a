"""`chat4all report`: the outcome of the deliveries, from ClickHouse, with the SQL that an analyst can copy.

Enters: two times. Leaves: one line per tenant and channel (and hour); else exit code 1 or 2, and one sentence.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.table import Table

from cli.command_errors import fail, settings_with
from cli.terminal import console
from sinks.clickhouse import answered, connect
from sinks.reports import Report, delivery_report
from sinks.sink_errors import NotMigrated, Unavailable

app = typer.Typer(help="Print a report from ClickHouse.", no_args_is_help=True)

_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"]


@app.callback()
def reports() -> None:
    """Print a report from ClickHouse."""  # without this callback, Typer would drop the word `delivery`: it is the only command


@app.command()
def delivery(
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=_FORMATS, help="Deliveries accepted at or after this time (UTC). Default: a day before --until."
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(formats=_FORMATS, help="Deliveries accepted before this time (UTC). Default: now."),
    ] = None,
    by_hour: Annotated[bool, typer.Option("--by-hour", help="One line per hour, from the hourly totals.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL of the report too.")] = False,
) -> None:
    """Count accepted, sent, delivered, read and failed deliveries by channel, with percentiles of the times between these steps.

    Example: `chat4all report delivery --since 2026-11-01 --until 2026-11-02 --by-hour --sql`.
    """
    end = until.replace(tzinfo=UTC) if until else datetime.now(UTC) + timedelta(seconds=1)
    begin = since.replace(tzinfo=UTC) if since else end - timedelta(days=1)
    if begin >= end:
        fail(f"--since {begin:%Y-%m-%d %H:%M:%S} is not before --until {end:%Y-%m-%d %H:%M:%S}")
    url = settings_with("clickhouse_url").clickhouse_url
    try:
        client = connect(url)
        try:
            report = answered(lambda: delivery_report(client, begin, end, by_hour=by_hour))
        finally:
            client.close()
    except (Unavailable, NotMigrated) as error:
        fail(str(error))
    draw(report)
    if sql:
        print(report.sql)


def draw(report: Report) -> None:
    """The report as tables: one of counts, one of times."""
    if not report.rows:
        console.print("no delivery was accepted in this time")
        return
    times = [name for name in report.rows[0] if name.endswith("_ms")]
    labels = [name for name in ("tenant_id", "channel", "hour") if name in report.rows[0]]
    counts = [name for name in report.rows[0] if name not in (*times, *labels)]
    console.print("Deliveries by current status", style="bold")
    console.print(_table(labels, counts, report))
    console.print("Milliseconds, p50 / p95 / p99", style="bold")
    console.print(_table(labels, times, report))


def _table(labels: list[str], names: list[str], report: Report) -> Table:
    table = Table(*labels)
    headings = list(dict.fromkeys(name.rsplit("_p", 1)[0] for name in names))
    for heading in headings:
        table.add_column(heading.replace("_", " "), justify="right")
    for row in report.rows:
        cells = [
            " / ".join(_number(row[name]) for name in names if name.rsplit("_p", 1)[0] == heading)
            for heading in headings
        ]
        table.add_row(*(str(row[label]) for label in labels), *cells)
    return table


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:,.0f}"
