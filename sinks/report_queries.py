"""Runs a report: the call of its view with the parameters in it, and the answer of ClickHouse as plain rows.

Enters: a client, a report of sinks/report_catalog.py, and the parameters. Leaves: ReportResult with the rows and the SQL that made them, to
copy. Guaranteed: only reads; texts in the SQL are quoted, whatever is in them. Blocks, in the caller's thread; errors of the client pass
through, so wrap it in sinks.clickhouse.answered.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from clickhouse_connect.driver.client import Client

from schemas.objectives import OBJECTIVES
from sinks.report_catalog import GRAINS, ReportFile, reports

# The limits that the roll-ups count (ddl/clickhouse/0006_daily.sql): a share within one of these is exact. Milliseconds.
LIMITS = (10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 3_600_000)
OBJECTIVE = next(objective for objective in OBJECTIVES if objective.name == "accept_to_sent")


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask: deliveries accepted in [since, until), of one tenant, channel and account ('' for all). `worst_n` and `label` are used
    by the reports that have them."""

    since: datetime
    until: datetime
    tenant: str = ""
    channel: str = ""
    account: str = ""
    worst_n: int = 20
    label: str = ""


@dataclass(frozen=True, slots=True)
class ReportResult:
    """The rows of a report (column -> value; times are in UTC), and the SQL that made them."""

    report: ReportFile
    question: Question  # as it was asked: in whole minutes or hours where the report has a grain
    rows: tuple[Mapping[str, Any], ...]
    sql: str


def whole(report: ReportFile, question: Question) -> Question:
    """The question in whole minutes or hours if the report has a grain: `since` is rounded down and `until` up."""
    seconds = GRAINS[report.grain]
    if not seconds:
        return question
    since, until = _rounded_down(question.since, seconds), _rounded_down(question.until, seconds)
    if until < question.until:
        until += timedelta(seconds=seconds)
    return replace(question, since=since, until=until)


def _rounded_down(at: datetime, seconds: int) -> datetime:
    return datetime.fromtimestamp(at.timestamp() // seconds * seconds, UTC)


def call(report: ReportFile, question: Question) -> str:
    """The SQL that asks it, without rounding. Raises KeyError for a parameter that no question has: a fault of the report's file."""
    values = {
        "since": _time(question.since),
        "until": _time(question.until),
        "tenant": quoted(question.tenant),
        "channel": quoted(question.channel),
        "account": quoted(question.account),
        "worst_n": str(question.worst_n),
        "label": quoted(question.label),
        "objective_ms": str(round(OBJECTIVE.seconds * 1000)),
        "objective_share": str(OBJECTIVE.share),
    }
    parameters = ", ".join(f"{name} = {values[name]}" for name in values if name in report.parameters)
    unknown = set(report.parameters) - set(values)
    if unknown:
        raise KeyError(f"report {report.name} has unknown parameters: {', '.join(sorted(unknown))}")
    return f"select * from {report.view}({parameters})"  # noqa: S608  # a view's name, numbers, and texts that are quoted


def ask(client: Client, name: str, question: Question) -> ReportResult:
    """Asks ClickHouse. Raises KeyError for a report that does not exist."""
    report = reports()[name]
    rounded = whole(report, question)
    sql = call(report, rounded)
    return ReportResult(report, rounded, tuple(client.query(sql).named_results()), sql)


def quoted(text: str) -> str:
    """A text as a literal of ClickHouse's SQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _time(at: datetime) -> str:
    return f"'{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03}'"
