"""`chat4all report`: the reports of ClickHouse as tables, CSV, JSON or plots, with the SQL that an analyst can copy.

Enters: a report's name, a range, and names to choose. Leaves: the report on standard output, or a file with a plot; else exit code 2, and
one sentence. The reports are the files of sinks/ddl/reports.
"""

import difflib
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cli.command_errors import fail, settings_with
from cli.report_tables import as_csv, as_json, draw
from cli.report_times import FORMS, WrongTime, moment
from cli.terminal import console
from schemas.records import CHANNELS
from sinks.clickhouse import answered, connect
from sinks.report_catalog import ReportFile, reports
from sinks.report_queries import Question, ReportResult, ask
from sinks.sink_errors import NotMigrated, Unavailable

WORST = 20
_A_DAY = timedelta(days=1)
_MOST = 10_000


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """The options as they were written; None: not given."""

    since: str | None = None
    until: str | None = None
    tenant: str = ""
    channel: str = ""
    account: str = ""
    worst: int | None = None
    label: str = ""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))


def report(
    name: Annotated[str, typer.Argument(help="A report, or `list` for all of them.")],
    *,
    since: Annotated[
        str | None,
        typer.Option(
            "--from", "--since", help=f"Deliveries accepted at or after: {FORMS}. Default: a day before --to."
        ),
    ] = None,
    until: Annotated[str | None, typer.Option("--to", "--until", help="Before this time. Default: now.")] = None,
    tenant: Annotated[str, typer.Option("--tenant", help="Of one tenant. Default: all.")] = "",
    channel: Annotated[str, typer.Option("--channel", help="Of one channel. Default: all.")] = "",
    account: Annotated[str, typer.Option("--account", help="Of one of our accounts. Default: all.")] = "",
    worst: Annotated[
        int | None, typer.Option("--worst", help=f"How many rows of a list of the worst. Default: {WORST}.")
    ] = None,
    label: Annotated[str, typer.Option("--label", help="One campaign. Default: all.")] = "",
    to_csv: Annotated[bool, typer.Option("--csv", help="Print CSV (RFC 4180), with all columns.")] = False,
    to_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of objects, with all columns.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL of the report too.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write a picture to this file: .svg or .png.")] = None,
) -> None:
    """Print a report from ClickHouse: SLA, latencies, funnel, breaches, retries, campaigns and more.

    `chat4all report list` shows all reports with the question each one answers.

    Example: `chat4all report sla --from -7d --tenant default`, `chat4all report latency --from today --plot latency.svg`.
    """
    if (to_csv, to_json, sql).count(True) > 1 and (to_csv or to_json):
        fail("choose one of --csv, --json and --sql: they would be mixed up on standard output")
    if name == "list":
        _print_list(as_objects=to_json)
        return
    chosen = known_report(name)
    if plot is not None:
        _check_plot(chosen, plot)
    question = question_of(chosen, ReportOptions(since, until, tenant, channel, account, worst, label))
    result = _answer(chosen, question)
    if to_csv or to_json:
        print(as_csv(result) if to_csv else as_json(result), end="" if to_csv else "\n")
    else:
        draw(result, console)
        if sql:
            print(result.sql)
    if plot is not None:
        _write_plot(result, plot)


def known_report(name: str) -> ReportFile:
    """The report of this name, with - or _ between its words. Ends the command when there is none."""
    written = name.replace("-", "_")
    if written not in reports():
        fail(f"there is no report {name!r}{_nearest(written, reports())}: `chat4all report list` shows all reports")
    return reports()[written]


def question_of(chosen: ReportFile, options: ReportOptions) -> Question:
    """What is asked of the report. Ends the command, with a sentence, for an option that is wrong or that the report cannot use."""
    if options.channel and options.channel not in CHANNELS:
        fail(
            f"there is no channel {options.channel!r}{_nearest(options.channel, CHANNELS)}: the channels are {', '.join(CHANNELS)}"
        )
    if options.since is not None and "since" in chosen.ignores:
        fail(f"report {chosen.name} takes no --from: its windows end at --to")
    if options.account and "account" in chosen.ignores:
        fail(f"report {chosen.name} takes no --account: its figures are not kept by account")
    if options.worst is not None and "worst_n" not in chosen.parameters:
        fail(f"report {chosen.name} takes no --worst: it is no list of the worst")
    if options.label and "label" not in chosen.parameters:
        fail(f"report {chosen.name} takes no --label: only campaigns have one")
    worst = WORST if options.worst is None else options.worst
    if not 1 <= worst <= _MOST:
        fail(f"--worst must be 1 to {_MOST:,}, not {worst}")
    try:
        until = moment(options.until or "now", options.now)
        since = until - _A_DAY if options.since is None else moment(options.since, options.now)
    except WrongTime as error:
        fail(str(error))
    if since >= until:
        fail(f"--from {since:%Y-%m-%d %H:%M:%S} is not before --to {until:%Y-%m-%d %H:%M:%S} (UTC)")
    return Question(since, until, options.tenant, options.channel, options.account, worst, options.label)


def _nearest(name: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f", did you mean {close[0]}" if close else ""


def _answer(chosen: ReportFile, question: Question) -> ReportResult:
    url = settings_with("clickhouse_url").clickhouse_url
    try:
        client = connect(url)
        try:
            return answered(lambda: ask(client, chosen.name, question))
        finally:
            client.close()
    except (Unavailable, NotMigrated) as error:
        fail(str(error))


def _print_list(*, as_objects: bool) -> None:
    if as_objects:
        import json  # noqa: PLC0415  # the other ways do not need it

        print(
            json.dumps(
                [
                    {
                        "name": each.name,
                        "question": each.question,
                        "parameters": each.parameters,
                        "columns": each.columns,
                    }
                    for each in reports().values()
                ],
                indent=1,
            )
        )
        return
    table = Table("report", "question it answers", pad_edge=False)
    for each in reports().values():
        table.add_row(each.name, each.question)
    console.print(table)


def _check_plot(chosen: ReportFile, path: Path) -> None:
    try:
        from cli.report_plots import PLOTS  # noqa: PLC0415  # matplotlib takes a second to import
    except ModuleNotFoundError as error:
        fail(f"--plot needs {error.name}: install it with `pip install chat4all[plot]`")
    if chosen.name not in PLOTS:
        fail(f"report {chosen.name} has no plot; these have one: {', '.join(PLOTS)}")
    if path.suffix not in {".svg", ".png"}:
        fail(f"--plot {path} must end in .svg or .png")


def _write_plot(result: ReportResult, path: Path) -> None:
    from cli.report_plots import picture  # noqa: PLC0415  # as above

    if not result.rows:
        fail(f"{path} was not written: there are no rows to draw")
    try:
        path.write_bytes(picture(result, path.suffix[1:]))
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror}")
    console.print(f"wrote {path}", style="dim", highlight=False)
