"""`chat4all replay`: writes records or rows again into a store that lacks some of them; and makes roll-ups again.

Enters: a store, a source and a range. Leaves: the store with everything that the source has, checksums before and after, and a row in
`operator_actions`. Guaranteed: what is there does not change. Exit code 2 and one sentence when it cannot be done. docs/check.md says when
to use what.
"""

import getpass
import os
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.table import Table

from cli.check import FORMATS
from cli.command_errors import fail, settings_with
from cli.operator_access import operator_access
from cli.replay_runs import Replayed, kafka_to_clickhouse, kafka_to_postgres, postgres_to_clickhouse
from cli.sink_positions import SinkPositions
from cli.terminal import console
from cli.topic_ranges import Wanted
from schemas.retention_days import DAY_MS, retention_in
from schemas.settings import Settings
from sinks.check_look import HOUR_MS, CheckedRange, Databases, Look
from sinks.check_roll_ups import ROLL_UPS, SameTotals, UnknownView
from sinks.clickhouse import connect
from sinks.replay_action import recorded
from sinks.replay_facts import AnotherReplay, alone
from sinks.replay_totals import Hours, hours_of_facts, make_again
from sinks.sink_errors import NotMigrated, Unavailable
from sinks.store_sums import Sums, clickhouse_sums, postgres_sums

QUERY_SECONDS = 3600


class TargetStore(StrEnum):
    POSTGRES = "postgres"
    CLICKHOUSE = "clickhouse"


class Origin(StrEnum):
    KAFKA = "kafka"
    POSTGRES = "postgres"
    CLICKHOUSE = "clickhouse"


def replay(  # noqa: PLR0917  # typer makes an option of each
    into: Annotated[TargetStore | None, typer.Option(help="The store that lacks rows.")] = None,
    source: Annotated[Origin, typer.Option(help="Where the rows come from.")] = Origin.KAFKA,
    since: Annotated[
        datetime | None,
        typer.Option("--from", formats=FORMATS, help="From this time on (UTC). Default: all that there is."),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--to", formats=FORMATS, help="Up to this time (UTC). Default: now.")
    ] = None,
    first_offset: Annotated[
        int | None,
        typer.Option("--from-offset", min=0, help="From this offset of each partition on; for --source kafka."),
    ] = None,
    last_offset: Annotated[
        int | None, typer.Option("--to-offset", min=0, help="Before this offset of each partition; for --source kafka.")
    ] = None,
    rollups: Annotated[
        bool,
        typer.Option(
            "--rollups",
            help="Make ClickHouse's deliveries, attempts and roll-ups again from its facts. Stop the sinks before.",
        ),
    ] = False,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for stage analyse; for --source postgres.")
    ] = 60.0,
    operator: Annotated[str, typer.Option(help="Who does it, for `operator_actions`. Default: your user name.")] = "",
) -> None:
    """Write again into a store what it lacks: rows that were deleted, a month that was truncated, a ClickHouse that was dropped.

    What is there does not change. The sinks may run, except with --rollups.

    Examples: `chat4all replay --into postgres --from 2026-11-01`, `chat4all replay --into clickhouse --source postgres`.
    """
    settings = settings_with("kafka_url", "postgres_url", "clickhouse_url")
    scope, wanted = _range(since, until), Wanted(_ms(since), _ms(until), first_offset, last_offset)
    if refusal := _refusal(into, source, wanted, rollups=rollups):
        fail(refusal)
    run = uuid.uuid4().hex
    asked = {"into": into or "roll-ups", "source": source, "from": wanted.since, "to": wanted.until}
    # the key says what is done: roll-ups, or a store from a source
    actions: dict[tuple[str, str], Callable[[], Replayed]] = {
        ("postgres", "kafka"): lambda: kafka_to_postgres(settings, wanted),
        ("clickhouse", "kafka"): lambda: kafka_to_clickhouse(settings, wanted, run),
        ("clickhouse", "postgres"): lambda: postgres_to_clickhouse(settings, scope, run, wait),
    }
    try:
        with alone(settings.postgres_url), recorded(settings.postgres_url, run, operator or _user(), asked) as result:
            if into is None:
                result.update(_make_roll_ups(settings, scope))
            else:
                result.update(_replay(settings, actions[into, source], into, scope))
    except (Unavailable, NotMigrated, UnknownView, AnotherReplay) as error:
        fail(f"cannot replay: {error}")


def _range(since: datetime | None, until: datetime | None) -> CheckedRange:
    every = CheckedRange()
    found = CheckedRange(
        every.since if since is None else _ms(since) or 0, every.until if until is None else _ms(until) or 0
    )
    if found.since >= found.until:
        fail("--from is not before --to")
    return found


def _refusal(into: TargetStore | None, source: Origin, wanted: Wanted, *, rollups: bool) -> str:
    """Why this cannot be done; empty if it can."""
    by_offset = wanted.first_offset is not None or wanted.last_offset is not None
    if rollups:
        return "--rollups takes no --into, --source and offsets" if into or by_offset or source != Origin.KAFKA else ""
    if into is None:
        return "say --into postgres, --into clickhouse or --rollups"
    if into == TargetStore.POSTGRES and source == Origin.CLICKHOUSE:
        return "PostgreSQL cannot be rebuilt from ClickHouse, which has no text and no address: use --source kafka or a backup"
    if into == str(source):
        return f"{into} cannot be its own source: use --source kafka"
    return (
        "offsets are Kafka's: with --source postgres, use --from and --to"
        if by_offset and source != Origin.KAFKA
        else ""
    )


def _replay(
    settings: Settings, run: Callable[[], Replayed], into: TargetStore, scope: CheckedRange
) -> Mapping[str, object]:
    databases = Databases(settings.postgres_url, settings.clickhouse_url, QUERY_SECONDS)
    before = _sums(databases, into, scope)
    done = run()
    after = _sums(databases, into, scope)
    console.print(f"{into}: rebuilt from {done.source}, {done.read:,} read", highlight=False)
    console.print(_table(before, after))
    for name, number in sorted(done.written.items()):
        if number:
            console.print(f"{name}: {number:,} rows inserted", highlight=False)
    if done.refused:
        console.print(
            f"{done.refused:,} records cannot be decoded; they are dead letters", style="yellow", highlight=False
        )
    for note in done.notes:
        console.print(note, style="yellow", markup=False, highlight=False)
    changed = sorted(name for name in after if before[name] != after[name])
    console.print(f"changed: {', '.join(changed)}" if changed else "nothing changed: everything was there")
    if into == TargetStore.CLICKHOUSE and changed:
        _say_wrong_totals(databases, scope)
    return {"read": done.read, "inserted": dict(done.written), "changed": changed}


def _sums(databases: Databases, into: TargetStore, scope: CheckedRange) -> Sums:
    with databases.look() as look:
        return postgres_sums(look, scope) if into == TargetStore.POSTGRES else clickhouse_sums(look, scope)


def _say_wrong_totals(databases: Databases, scope: CheckedRange) -> None:
    """Rows that were deleted are still in the roll-ups; with the inserted ones they are there twice."""
    with databases.look() as look:
        wrong = {each.relation: SameTotals(each, scope).first(look).total for each in ROLL_UPS}
    said = ", ".join(
        f"{number:,} {'hours' if 'hour' in name else 'minutes'} of {name}" for name, number in wrong.items() if number
    )
    if said:
        console.print(
            f"differ from the facts: {said}; if `chat4all check` says so too, stop the sinks and run `chat4all replay --rollups`",
            style="yellow",
            highlight=False,
        )


def _make_roll_ups(settings: Settings, scope: CheckedRange) -> Mapping[str, object]:
    """Refuses while stage analyse may insert, and for hours whose facts may be gone."""
    positions = SinkPositions(operator_access(settings), settings.postgres_url)
    try:
        if members := positions.members("analyse"):
            raise Unavailable(f"{members} workers of stage analyse run, which insert meanwhile: stop the sinks first")
    finally:
        positions.close()
    databases = Databases(settings.postgres_url, settings.clickhouse_url, QUERY_SECONDS)
    client = connect(settings.clickhouse_url)
    try:
        with databases.look() as look:
            kept = _facts_kept_since(look, settings)
            if CheckedRange().since < scope.since < kept:
                raise Unavailable(
                    f"facts before {_shown(kept)} may be gone, and their roll-ups would be lost: choose a later --from"
                )
            first = max(0, -(-max(scope.since, kept) // HOUR_MS) * HOUR_MS)
            hours = hours_of_facts(client, Hours.around(first, max(first, scope.until)))
            before = clickhouse_sums(look, scope)
            make_again(look, client, hours)
            after = clickhouse_sums(look, scope)
    finally:
        client.close()
    console.print(f"roll-ups made again from {_shown(hours.since)} to {_shown(hours.until)}", highlight=False)
    console.print(_table(before, after))
    return {"from": hours.since, "to": hours.until}


def _facts_kept_since(look: Look, settings: Settings) -> int:
    """Since when ClickHouse has the facts of every tenant, in Unix milliseconds."""
    now = int(datetime.now(UTC).timestamp() * 1000)
    retention = retention_in(settings.retention_days, settings.tenant_retention)
    days = [each for each in (retention.days, *retention.tenants.values()) if each is not None]
    ttl = look.kept_since(["delivery_events", "accepted_deliveries"], now)
    return max([ttl, *(now - each * DAY_MS for each in days)])


def _table(before: Sums, after: Sums) -> Table:
    table = Table("relation", box=None, pad_edge=False)
    for heading in ("rows before", "rows after", "checksum before", "checksum after"):
        table.add_column(heading, justify="right")
    for name, (rows, sum_) in before.items():
        table.add_row(name, f"{rows:,}", f"{after[name][0]:,}", f"{sum_:x}", f"{after[name][1]:x}")
    return table


def _ms(given: datetime | None) -> int | None:
    return None if given is None else round(given.replace(tzinfo=UTC).timestamp() * 1000)


def _shown(at: int) -> str:
    return f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return f"uid {os.getuid()}"
