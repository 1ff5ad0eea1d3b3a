"""`chat4all load` and `chat4all demo`: a load of messages, end to end, and a computed verdict.

Enters: options. Leaves: progress, the verdict, and for a demo one message's timeline, reports and the check of the stores. Exit code 0
only when the verdict is good and, in a demo, the stores agree; 1 when a message was lost, sent twice or out of order, or lacks a
sequence number.
"""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import psycopg
import typer
from rich.table import Table

from cli import check, message, report_tables, stack
from cli.command_errors import NO, fail
from cli.dev_stack import SIMULATED, kind_of
from cli.load_run import LoadOptions, RunResult, run_load
from cli.sla_summary import sla_summary
from cli.terminal import console
from loadgen.load_producer import LoadFailed
from loadgen.verdict_view import render
from pipelines.stages import WORKERS
from schemas.settings import Settings, use_state
from sinks.check_look import CheckedRange
from sinks.check_roll_ups import UnknownView
from sinks.clickhouse import connect
from sinks.history import timelines
from sinks.report_queries import Question, ask
from sinks.sink_errors import NotMigrated, Unavailable
from stack import control
from stack.state import is_running, read_state, state_path

CHANNELS = tuple(SIMULATED)
CHECK_WAIT_SECONDS = 60.0  # for the sinks to write what is in Kafka


def load(  # noqa: PLR0917  # typer makes an option of each
    count: Annotated[int, typer.Option(min=1, help="Number of messages.")] = 1000,
    rate: Annotated[float, typer.Option(min=0, help="Messages a second; 0 is as fast as possible.")] = 200,
    duplicates: Annotated[float, typer.Option(min=0, max=1, help="Share of messages produced a second time.")] = 0.05,
    channel: Annotated[list[str] | None, typer.Option(help="Channel to use. May be repeated. Default: all.")] = None,
    conversations: Annotated[int, typer.Option(min=1, help="Number of conversations with one person.")] = 500,
    group_share: Annotated[float, typer.Option(min=0, max=1, help="Share of messages that go to a group.")] = 0.02,
    groups: Annotated[int, typer.Option(min=1, help="Number of groups.")] = 1,
    group_size: Annotated[int, typer.Option(min=1, help="Members of each group.")] = 20,
    seed: Annotated[int, typer.Option(help="The same seed makes the same people and messages.")] = 1,
    kill: Annotated[
        list[str] | None, typer.Option(help="Worker to kill (SIGKILL) during the load, as core. May be repeated.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds without progress until the missing deliveries count as lost.")
    ] = 90,
    name: stack.Name = None,
) -> None:
    """Produce a load, wait for its deliveries, and print a verdict. Uses the running stack, else starts one for the load.

    Exit code 0 when every message was delivered once and in order, else 1.

    Example, with a crash of a worker: `chat4all load --count 5000 --rate 100 --kill core`.
    """
    unknown = sorted({*(channel or ())} - {*CHANNELS}) + sorted(
        {each for each in kill or () if kind_of(each) not in {*WORKERS, "gateway"}}
    )
    if unknown:
        fail(
            f"unknown: {', '.join(unknown)}; channels are {', '.join(CHANNELS)}, workers {', '.join(WORKERS)} and gateway"
        )
    options = LoadOptions(
        count=count,
        rate=rate,
        channels=channel or CHANNELS,
        conversations=conversations,
        group_share=group_share,
        groups=groups,
        group_size=group_size,
        duplicates=duplicates,
        seed=seed,
        kill=kill or (),
        timeout_seconds=timeout,
    )
    folder = stack.folder_of(name)
    if is_running(folder):
        _judge(folder, options)
        return
    console.print("no stack is running: starting one for this load, to be stopped after it")
    _with_stack(Path(".chat4all") / f"load-{os.getpid()}", options)


def demo(
    count: Annotated[int, typer.Option(min=1, help="Number of messages.")] = 1000,
    rate: Annotated[float, typer.Option(min=0, help="Messages a second; 0 is as fast as possible.")] = 100,
    seed: Annotated[int, typer.Option(help="The same seed makes the same people and messages.")] = 1,
) -> None:
    """Show everything in one run: start a stack, produce a load with duplicates and a group, print a timeline, reports, the verdict, and
    the check of the stores.

    Stops the stack and deletes its data at the end. Exit code 0 when the verdict is good and the stores agree, else 1.
    """
    options = LoadOptions(
        count=count,
        rate=rate,
        channels=CHANNELS,
        conversations=200,
        group_share=0.05,
        groups=1,
        group_size=20,
        duplicates=0.05,
        seed=seed,
    )
    _with_stack(Path(".chat4all") / f"demo-{os.getpid()}", options, details=True)


def _print_sla(settings: Settings) -> None:
    console.rule("chat4all report sla")
    until = datetime.now(UTC) + timedelta(minutes=1)
    try:
        found = sla_summary(settings.clickhouse_url, until - timedelta(days=1), until)
    except (Unavailable, NotMigrated) as error:
        fail(f"no report: {error}", NO)
    console.print("no delivery was accepted" if found is None else found)


def _stores_agree(settings: Settings) -> bool:
    """Prints what `chat4all check` says; whether all is equal."""
    console.rule("chat4all check")
    try:
        found = check.run_check(settings, CheckedRange(), CHECK_WAIT_SECONDS)
    except (Unavailable, NotMigrated, UnknownView) as error:
        fail(f"cannot check: {error}", NO)
    check.draw(found)
    return found.code == 0


def _with_stack(folder: Path, options: LoadOptions, *, details: bool = False) -> None:
    began = time.monotonic()
    try:
        console.rule("real servers, simulated providers, all stages")
        stack.start(folder)
        console.rule(f"{options.count:,} messages")
        outcome = _judge(folder, options, details=details)
        agree = True
        if details:
            settings = use_state(state_path(folder))
            _print_sla(settings)
            agree = _stores_agree(settings)
    finally:
        control.stop(folder)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    console.print(f"all in {time.monotonic() - began:.1f} s; the stack is down and its data are deleted")
    if not (outcome.ok and agree):
        raise typer.Exit(NO)


def _judge(folder: Path, options: LoadOptions, *, details: bool = False) -> RunResult:
    settings = use_state(state_path(folder))
    try:
        outcome = run_load(folder, settings, options)
    except LoadFailed as error:
        fail(str(error), NO)
    for kill in outcome.kills:
        console.print(f"SIGKILL to {kill.name} (pid {kill.pid}) after {kill.after_seconds:.1f} s")
    if details:
        _print_details(folder, settings, outcome)
        console.rule("verdict")
    console.print(render(outcome.verdict))
    agree = "the same number" if outcome.in_postgres == outcome.in_clickhouse else "THEY DISAGREE"
    console.print(
        f"delivered messages: PostgreSQL {outcome.in_postgres:,}, ClickHouse {outcome.in_clickhouse:,}: {agree}",
        highlight=False,
    )
    agree = "the view of table cursors has the same" if outcome.cursors_agree else "THE VIEW OF TABLE CURSORS DISAGREES"
    console.print(
        f"cursors of {len(outcome.cursors)} members of one conversation in PostgreSQL: {agree}", highlight=False
    )
    rate = outcome.load.deliveries / outcome.seconds
    console.print(
        f"{outcome.load.deliveries:,} deliveries with their receipts in {outcome.seconds:.1f} s: {rate:.0f} a second",
        highlight=False,
    )
    if not details and not outcome.ok:
        raise typer.Exit(NO)
    return outcome


def _print_details(folder: Path, settings: Settings, outcome: RunResult) -> None:
    with psycopg.connect(settings.postgres_url) as connection:
        chosen = connection.execute(
            "select message_id, conversation_id from deliveries where conversation_id like %s and status = 'READ' "
            "order by accepted_at limit 1",
            (f"{outcome.run_id}-c%",),
        ).fetchone()
        if chosen is not None:
            console.rule(f"PostgreSQL: chat4all message show {chosen[0]}")
            for timeline in timelines(connection, str(chosen[0]), conversation_id=str(chosen[1])):
                message.draw(timeline)
    console.rule("ClickHouse: chat4all report delivery --sql")
    client = connect(settings.clickhouse_url)
    try:
        until = datetime.now(UTC) + timedelta(seconds=1)
        found = ask(client, "delivery", Question(until - timedelta(days=1), until))
    finally:
        client.close()
    report_tables.draw(found, console)
    console.print(found.sql, highlight=False)
    console.rule("processes")
    _draw_processes(folder)


def _draw_processes(folder: Path) -> None:
    state = read_state(folder)
    table = Table(box=None, pad_edge=False)
    for service in state.services if state else ():
        if service.pid:
            table.add_column(service.name, justify="right")
    table.add_row(*(f"{control.memory(s.pid) / 2**20:.0f} MB" for s in (state.services if state else ()) if s.pid))
    console.print(table)
