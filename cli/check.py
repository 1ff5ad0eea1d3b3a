"""`chat4all check`: whether Kafka, PostgreSQL and ClickHouse say the same.

Enters: a tenant and a range of times. Leaves: a line for each check, the ids of what differs, and exit code 0 (all equal), 1 (something
differs) or 2 (nobody can say: a server is away, or a sink is too far behind). Guaranteed: only reads. docs/check.md says what each line
means and what to do.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from cli.command_errors import NO, NOT_ASKED, fail, settings_with
from cli.operator_access import operator_access
from cli.sink_positions import SinkPosition, SinkPositions
from cli.terminal import console
from connectors.registry import OBSERVED
from schemas.retention_days import DAY_MS, Retention, retention_in
from schemas.settings import Settings
from sinks.check_history import history_checks
from sinks.check_look import HOUR_MS, CheckedRange, Databases
from sinks.check_relations import row_checks
from sinks.check_result import SHOWN, Check, CheckResult, Difference
from sinks.check_roll_ups import ROLL_UPS, SameTotals, UnknownView
from sinks.check_run import run_checks
from sinks.sink_errors import NotMigrated, Unavailable

FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"]
FACTS = ("delivery_events", "deliveries", "attempts", "accepted_deliveries")
STYLES = {"ok": "green", "DIFFERS": "bold red", "open": "yellow"}


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check found. `scope` is what was compared in both databases; `behind` says why a result is open."""

    scope: CheckedRange
    positions: Sequence[SinkPosition]
    results: Sequence[CheckResult]
    behind: str = ""

    @property
    def code(self) -> int:
        """The exit code."""
        found = {each.result for each in self.results}
        return NO if "DIFFERS" in found else NOT_ASKED if "open" in found else 0


def check(  # noqa: PLR0917  # typer makes an option of each
    tenant: Annotated[str | None, typer.Option(help="Check this tenant only.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--from", formats=FORMATS, help="What was accepted at or after this time (UTC). Default: all that is kept."
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option("--to", formats=FORMATS, help="What was accepted before this time (UTC). Default: all."),
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for a sink that is behind.")] = 60.0,
    seconds: Annotated[int, typer.Option(min=1, help="Longest time of one query.")] = 600,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare Kafka, PostgreSQL and ClickHouse, and name what differs. Only reads; messages may flow meanwhile.

    Exit code 0: all equal. 1: something differs. 2: nobody can say, because a server is away or a sink is too far behind.

    Example: `chat4all check --from 2026-11-01 --to 2026-11-02`.
    """
    settings = settings_with("kafka_url", "postgres_url", "clickhouse_url")
    scope = CheckedRange(tenant=tenant)
    scope = CheckedRange(_ms(since, scope.since), _ms(until, scope.until), tenant)
    if scope.since >= scope.until:
        fail("--from is not before --to")
    try:
        report = run_check(settings, scope, wait, seconds)
    except (Unavailable, NotMigrated, UnknownView) as error:
        fail(f"cannot check: {error}")
    if as_json:
        print(json.dumps(as_dict(report), indent=2))
    else:
        draw(report)
    if report.code:
        raise typer.Exit(report.code)


def run_check(settings: Settings, scope: CheckedRange, wait_seconds: float, query_seconds: int = 600) -> CheckReport:
    """Runs all checks. Blocks; on large databases for minutes. Raises Unavailable, NotMigrated or UnknownView."""
    databases = Databases(settings.postgres_url, settings.clickhouse_url, query_seconds)
    positions = SinkPositions(operator_access(settings), settings.postgres_url)
    try:
        before = positions.of(positions.ends())
        kept, checks = checks_of(databases, scope, retention_in(settings.retention_days, settings.tenant_retention))
        results, behind = run_checks(checks, databases, lambda: positions.await_passed(wait_seconds))
    finally:
        positions.close()
    return CheckReport(kept, before, [_positions(before), *results], behind)


def checks_of(databases: Databases, scope: CheckedRange, retention: Retention) -> tuple[CheckedRange, list[Check]]:
    """The checks, and the scope that both databases keep. Raises Unavailable or NotMigrated."""
    now = int(time.time() * 1000)
    with databases.look() as look:
        facts = look.kept_since(FACTS, now)
        totals = {each.relation: look.kept_since([each.relation], now) for each in ROLL_UPS}
        kept = _kept(look.first_month(), scope.tenant, retention, now)
    history = replace(kept, since=max(kept.since, scope.since), until=scope.until)
    both = replace(history, since=max(history.since, facts))
    reporting = [channel for channel, (delivered, *_) in OBSERVED.items() if delivered]
    checks: list[Check] = [*row_checks(both)]
    checks += [SameTotals(each, replace(both, since=max(both.since, totals[each.relation]))) for each in ROLL_UPS]
    checks += history_checks(history, kept, reporting)
    return both, checks


def _kept(first_month: int, tenant: str | None, retention: Retention, now: int) -> CheckedRange:
    """What PostgreSQL keeps, less the hour in which rows reach the end of their retention."""

    def since(days: int | None) -> int:
        return first_month if days is None else max(first_month, now - days * DAY_MS + HOUR_MS)

    # a tenant that is not named has the days of all; one that is named may have more
    general = since(retention.days)
    named = {name: since(days) for name, days in retention.tenants.items()}
    return CheckedRange(general, tenant=tenant, kept={name: at for name, at in named.items() if at > general})


def _positions(positions: Sequence[SinkPosition]) -> CheckResult:
    """Where each sink stands. To be behind is no difference; to be beyond the end is one."""
    parts = []
    for sink in dict.fromkeys(each.sink for each in positions):
        own = [each for each in positions if each.sink == sink]
        behind = sum(max(0, each.end - (each.next_offset or 0)) for each in own)
        parts.append(f"{sink} {behind:,} offsets behind in {len(own)} partitions")
    ahead = tuple(
        Difference(
            (each.topic, str(each.partition)), f"{each.sink} is at {each.next_offset}, the topic ends at {each.end}"
        )
        for each in positions
        if each.is_ahead
    )
    return CheckResult("positions", "; ".join(parts) or "no topic in Kafka", len(ahead), ahead[:SHOWN])


def draw(report: CheckReport) -> None:
    """The report for a terminal."""
    since, until = (_shown(at) for at in (report.scope.since, report.scope.until))
    whose = "all tenants" if report.scope.tenant is None else f"tenant {report.scope.tenant}"
    console.print(f"accepted from {since} to {until}, {whose}", highlight=False)
    table = Table("check", "result", "compared", box=None, pad_edge=False)
    for each in report.results:
        number = f" {'at least ' if each.at_least else ''}{each.total:,}" if each.total else ""
        table.add_row(each.name, f"[{STYLES[each.result]}]{each.result}{number}[/]", each.compared)
    console.print(table)
    for each in report.results:
        for difference in each.shown:
            console.print(
                f"{each.name}: {' '.join(difference.key)}: {difference.said}",
                style="red",
                markup=False,
                highlight=False,
            )
        if each.total > len(each.shown):
            console.print(f"{each.name}: and {each.total - len(each.shown):,} more", style="red")
    if report.behind:
        console.print(f"open: {report.behind}", style="yellow", markup=False, highlight=False)
    verdicts = {0: "OK: the stores agree", NO: "NOT OK: the stores differ", NOT_ASKED: "OPEN: nobody can say yet"}
    console.print(verdicts[report.code], style="bold green" if not report.code else "bold red")


def as_dict(report: CheckReport) -> dict[str, object]:
    """The report as JSON values. Times are Unix milliseconds."""
    return {
        "code": report.code,
        "from": report.scope.since,
        "to": report.scope.until,
        "tenant": report.scope.tenant,
        "behind": report.behind,
        "positions": [
            {
                "sink": each.sink,
                "topic": each.topic,
                "partition": each.partition,
                "end": each.end,
                "next_offset": each.next_offset,
            }
            for each in report.positions
        ],
        "checks": [
            {
                "name": each.name,
                "result": each.result,
                "compared": each.compared,
                "differences": each.total,
                "at_least": each.at_least,
                "ids": [{"key": list(shown.key), "said": shown.said} for shown in each.shown],
            }
            for each in report.results
        ],
    }


def _ms(given: datetime | None, otherwise: int) -> int:
    return otherwise if given is None else round(given.replace(tzinfo=UTC).timestamp() * 1000)


def _shown(at: int) -> str:
    limits = CheckedRange()
    if at in (limits.since, limits.until):
        return "ever" if at == limits.until else "the beginning"
    return f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%d %H:%M:%S}"
