"""`chat4all history`: what PostgreSQL keeps of messages, people and failures, one page at a time.

Enters: options, and the configured PostgreSQL. Leaves: tables for a person, or with --json the page as JSON; at the end of a page, the
command that shows the next one. Exit code 1 when nothing was found; 2, with one sentence, for a wrong question or when PostgreSQL cannot be
asked. Guaranteed: only reads; characters that control a terminal are replaced (tables) or written as numbers (JSON).
"""

import dataclasses
import json
import shlex
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import psycopg
import typer

from cli import history_tables as tables
from cli.command_errors import NO, fail, settings_with
from cli.message import shown
from cli.report_times import FORMS, WrongTime, moment
from cli.terminal import console
from schemas import access_errors
from schemas.keys import is_tenant
from sinks import history, history_failures
from sinks.history_pages import DEFAULT_LIMIT, MOST, Page, TooSlow, WrongQuestion
from sinks.history_search import search as search_messages

app = typer.Typer(help="Look into the history in PostgreSQL.", no_args_is_help=True)
T = TypeVar("T")
Connection = psycopg.Connection[Any]

Tenant = Annotated[str, typer.Option(help="Tenant whose history is shown.")]
After = Annotated[str | None, typer.Option(metavar="CURSOR", help="Where to go on: the end of a page shows it.")]
Limit = Annotated[int, typer.Option(help=f"Rows of a page, 1 to {MOST}.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the page as JSON.")]
From = Annotated[str, typer.Option("--from", help=f"Deliveries accepted at or after: {FORMS}.")]
To = Annotated[str, typer.Option("--to", help="Deliveries accepted before.")]


@app.command()
def conversation(  # noqa: PLR0917  # typer makes an option of each
    conversation_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the conversation.")],
    tenant: Tenant = "default",
    newest_first: Annotated[bool, typer.Option("--newest-first", help="Begin with the newest message.")] = False,
    deliveries: Annotated[bool, typer.Option("--deliveries", help="Show each delivery of each message.")] = False,
    after: After = None,
    limit: Limit = DEFAULT_LIMIT,
    as_json: AsJson = False,
) -> None:
    """Show the messages of a conversation, in both directions; the first page also shows its members and counts.

    Example: `chat4all history conversation c-1 --newest-first --limit 20`.
    """

    def ask(connection: Connection) -> tuple[history.ConversationView | None, Page[history.ArchivedMessage]]:
        whole = None if after else history.conversation(connection, tenant, conversation_id)
        page = history.conversation_messages(
            connection,
            tenant,
            conversation_id,
            limit=limit,
            cursor=after,
            newest_first=newest_first,
            with_deliveries=deliveries,
        )
        return whole, page

    whole, page = _asked(tenant, ask)
    if not page.items:
        fail(f"no message of conversation {conversation_id} of tenant {tenant} in PostgreSQL", NO)
    if as_json:
        _json({**_page(page), "conversation": None if whole is None else dataclasses.asdict(whole)})
        return
    if whole is not None:
        tables.draw_conversation(whole)
    console.print(tables.messages(page.items))
    given = (*_flag("--newest-first", newest_first), *_flag("--deliveries", deliveries))
    _next(page, "conversation", (*given, "--", conversation_id), tenant, limit)


@app.command()
def person(
    name: Annotated[str, typer.Argument(metavar="PERSON", help="A user id, or one address of the person.")],
    tenant: Tenant = "default",
    after: After = None,
    limit: Limit = DEFAULT_LIMIT,
    as_json: AsJson = False,
) -> None:
    """Show the conversations of a person over all channels, the newest activity first.

    Example: `chat4all history person 15550001234`.
    """
    page = _asked(tenant, lambda c: history.person_conversations(c, tenant, name, limit=limit, cursor=after))
    _show(page, tables.conversations, f"no conversation of {name}, tenant {tenant}, in PostgreSQL", as_json=as_json)
    _next(page, "person", ("--", name), tenant, limit, as_json=as_json)


@app.command()
def search(  # noqa: PLR0917  # typer makes an option of each
    words: Annotated[list[str], typer.Argument(help='Words as in a web search: "as written", -without, or.')],
    tenant: Tenant = "default",
    conversation_id: Annotated[
        str | None, typer.Option("--conversation", help="Only messages of this conversation.")
    ] = None,
    since: From = "-90d",
    until: To = "now",
    after: After = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Find messages by their words, in Portuguese and in English, with and without accents, the newest first.

    Examples: `chat4all history search consulta amanha --from -7d`, `chat4all history search '"bom dia" -amanha'`.
    """
    begin, end = _times(since, until)
    question = " ".join(words)
    page = _asked(
        tenant,
        lambda c: search_messages(
            c, tenant, question, conversation_id=conversation_id, since=begin, until=end, limit=limit, cursor=after
        ),
    )
    _show(page, tables.found, f"no message of tenant {tenant} in PostgreSQL has these words", as_json=as_json)
    given = (*_option("--conversation", conversation_id), *_range(begin, end), "--", *words)
    _next(page, "search", given, tenant, limit, as_json=as_json)


@app.command()
def failed(  # noqa: PLR0917  # typer makes an option of each
    status: Annotated[str | None, typer.Option(help="List the deliveries with this status.")] = None,
    code: Annotated[str | None, typer.Option(help="List the deliveries with this reason code; empty: none.")] = None,
    channel: Annotated[str | None, typer.Option(help="Only of this channel, in a list.")] = None,
    tenant: Tenant = "default",
    since: From = "today",
    until: To = "now",
    after: After = None,
    limit: Limit = DEFAULT_LIMIT,
    as_json: AsJson = False,
) -> None:
    """Count what failed by cause; with --status and --code, list the deliveries of one cause, the newest first.

    Examples: `chat4all history failed`, `chat4all history failed --from -7d --status FAILED --code 131026`.
    """
    begin, end = _times(since, until)
    nothing = f"no delivery of tenant {tenant}, accepted in this time, failed with this cause"
    if status is None:
        if code is not None or channel is not None or after is not None:
            fail("--code, --channel and --after belong to a list: name its --status, too")
        causes = _asked(tenant, lambda c: history_failures.failed_causes(c, tenant, begin, end))
        _show(Page(causes, None, None), tables.causes, nothing, as_json=as_json)
        if not as_json:
            first = causes[0]
            cause = ("--status", first.status, "--code", first.reason_code, "--channel", first.channel)
            _print_command("one cause", "failed", (*cause, *_range(begin, end)), tenant)
        return
    if status not in history_failures.FAILED:
        fail(f"--status {status}: write {', '.join(history_failures.FAILED)}")
    page = _asked(
        tenant,
        lambda c: history_failures.failed_deliveries(
            c,
            tenant,
            begin,
            end,
            status=status,
            reason_code=code or "",
            channel=channel,
            limit=limit,
            cursor=after,
        ),
    )
    _show(page, tables.failed, nothing, as_json=as_json)
    given = ("--status", status, "--code", code or "", *_option("--channel", channel), *_range(begin, end))
    _next(page, "failed", given, tenant, limit, as_json=as_json)


@app.command()
def attempts(
    delivery_id: Annotated[str, typer.Argument(metavar="DELIVERY", help="Id of the delivery.")],
    tenant: Tenant = "default",
    after: After = None,
    limit: Limit = DEFAULT_LIMIT,
    as_json: AsJson = False,
) -> None:
    """Show the attempts of a delivery in order: each call to the provider, how it ended and why."""
    page = _asked(tenant, lambda c: history_failures.attempts(c, tenant, delivery_id, limit=limit, cursor=after))
    _show(page, tables.attempts, f"no attempt of delivery {delivery_id} of tenant {tenant}", as_json=as_json)
    _next(page, "attempts", ("--", delivery_id), tenant, limit, as_json=as_json)


@app.command()
def ignored(  # typer makes an option of each
    delivery: Annotated[
        str | None, typer.Option(help="Only of this delivery. Default: of all, the newest first.")
    ] = None,
    tenant: Tenant = "default",
    after: After = None,
    limit: Limit = DEFAULT_LIMIT,
    as_json: AsJson = False,
) -> None:
    """Show receipts that changed nothing, and why."""
    page = _asked(
        tenant,
        lambda c: history_failures.ignored_receipts(c, tenant, delivery_id=delivery, limit=limit, cursor=after),
    )
    _show(page, tables.ignored, f"no receipt of tenant {tenant} was ignored", as_json=as_json)
    _next(page, "ignored", _option("--delivery", delivery), tenant, limit, as_json=as_json)


@app.command()
def orphans(
    tenant: Tenant = "default", after: After = None, limit: Limit = DEFAULT_LIMIT, as_json: AsJson = False
) -> None:
    """Show receipts for which no delivery was found, the newest first."""
    page = _asked(tenant, lambda c: history_failures.orphan_receipts(c, tenant, limit=limit, cursor=after))
    _show(page, tables.orphans, f"no orphan receipt of tenant {tenant}", as_json=as_json)
    _next(page, "orphans", (), tenant, limit, as_json=as_json)


@app.command("dead-letters")
def dead_letters(
    tenant: Tenant = "default", after: After = None, limit: Limit = DEFAULT_LIMIT, as_json: AsJson = False
) -> None:
    """Show what stages refused, without its content, the newest first."""
    page = _asked(tenant, lambda c: history_failures.dead_letters(c, tenant, limit=limit, cursor=after))
    _show(page, tables.dead_letters, f"no dead letter of tenant {tenant}", as_json=as_json)
    _next(page, "dead-letters", (), tenant, limit, as_json=as_json)


@app.command("dead-letter")
def dead_letter(
    dead_letter_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the dead letter.")],
    tenant: Tenant = "default",
    content: Annotated[bool, typer.Option("--content", help="With its key, value and headers.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter; with --content also its bytes (in JSON as base64)."""
    found = _asked(tenant, lambda c: history_failures.dead_letter(c, tenant, dead_letter_id, with_bytes=content))
    if found is None:
        fail(f"no dead letter {dead_letter_id} of tenant {tenant}", NO)
    if as_json:
        _json(dataclasses.asdict(found))
    else:
        console.print(tables.dead_letter(found))


@app.command()
def actions(
    tenant: Tenant = "default", after: After = None, limit: Limit = DEFAULT_LIMIT, as_json: AsJson = False
) -> None:
    """Show what operators did to the tenant's data (erase, replay), the newest first."""
    page = _asked(tenant, lambda c: history_failures.operator_actions(c, tenant, limit=limit, cursor=after))
    _show(page, tables.actions, f"no action of an operator on tenant {tenant}", as_json=as_json)
    _next(page, "actions", (), tenant, limit, as_json=as_json)


@app.command()
def suppressions(  # typer makes an option of each
    every: Annotated[bool, typer.Option("--all", help="Also who may be written to again.")] = False,
    tenant: Tenant = "default",
    after: After = None,
    limit: Limit = DEFAULT_LIMIT,
    as_json: AsJson = False,
) -> None:
    """Show who must not be written to, by channel, account and address, and why."""
    page = _asked(tenant, lambda c: history_failures.suppressions(c, tenant, every=every, limit=limit, cursor=after))
    _show(page, tables.suppressions, f"nobody is suppressed for tenant {tenant}", as_json=as_json)
    _next(page, "suppressions", _flag("--all", every), tenant, limit, as_json=as_json)


def _asked(tenant: str, ask: Callable[[Connection], T]) -> T:
    """The answer of PostgreSQL; ends the command with a sentence when it has none."""
    if not is_tenant(tenant):
        fail(f"--tenant {tenant[:40]!r}: write 1 to 64 letters, digits, dots, dashes or underscores")
    url = settings_with("postgres_url").postgres_url
    try:
        with psycopg.connect(url, connect_timeout=10, application_name="chat4all-history") as connection:
            connection.read_only = True
            return ask(connection)
    except (WrongQuestion, TooSlow) as error:
        fail(str(error))
    except psycopg.OperationalError as error:
        fail(access_errors.access_error(access_errors.of_url("PostgreSQL", url), error))
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedFunction):
        fail("PostgreSQL lacks our relations: run `python -m sinks.migrate`")


def _times(since: str, until: str) -> tuple[int, int]:
    """The range in Unix milliseconds."""
    now = datetime.now(UTC)
    try:
        begin, end = moment(since, now), moment(until, now)
    except WrongTime as error:
        fail(str(error))
    if begin >= end:
        fail(f"--from {since} is not before --to {until}")
    return round(begin.timestamp() * 1000), round(end.timestamp() * 1000)


def _range(begin: int, end: int) -> tuple[str, ...]:
    """The options of a range that stays the same for the next page, whatever the time is then."""
    at = (datetime.fromtimestamp(each / 1000, UTC).isoformat(timespec="milliseconds") for each in (begin, end))
    return ("--from", next(at), "--to", next(at))


def _option(name: str, value: str | None) -> tuple[str, ...]:
    return () if value is None else (name, value)


def _flag(name: str, given: bool) -> tuple[str, ...]:  # the value of an option
    return (name,) if given else ()


def _show(page: Page[T], table: Callable[[Sequence[T]], Any], nothing: str, *, as_json: bool) -> None:
    if not page.items:
        fail(nothing, NO)
    if as_json:
        _json(_page(page))
    else:
        console.print(table(page.items))


def _next(
    page: Page[Any], command: str, given: Sequence[str], tenant: str, limit: int, *, as_json: bool = False
) -> None:
    if page.after is not None and not as_json:
        _print_command("next page", command, ("--after", page.after, "--limit", str(limit), *given), tenant)


def _print_command(what: str, command: str, given: Sequence[str], tenant: str) -> None:
    line = shlex.join(["chat4all", "history", command, "--tenant", tenant, *given])
    console.print(shown(f"{what}: {line}"), soft_wrap=True, highlight=False)


def _page(page: Page[Any]) -> dict[str, Any]:
    return {"items": [dataclasses.asdict(item) for item in page.items], "after": page.after, "before": page.before}


def _json(value: Any) -> None:
    """Only ASCII, so that no text reaches the terminal as it is. Bytes are base64."""
    print(json.dumps(value, indent=2, default=lambda raw: b64encode(raw).decode()))
