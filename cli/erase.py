"""`chat4all erase`: text and addresses of a person gone from the stores and the workers; `chat4all audit`: what operators did.

Enters: options, and the configured PostgreSQL and Kafka. Leaves: what would be erased, or was, and what stays in Kafka for how long; else
exit code 1 or 2, and one sentence. Guaranteed: an interrupted erasure continues when the command runs again; one that is complete changes
nothing. A row of `operator_actions` stays: it has counts and times, but no address and no text.
"""

import pwd
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from os import getuid
from typing import Annotated, Any

import psycopg
import typer
from rich.table import Table

from cli.command_errors import NO, fail, settings_with
from cli.erasure_kafka import ErasureKafka
from cli.message import shown
from cli.operator_access import operator_access
from cli.terminal import console
from connectors.registry import CHANNELS
from pipelines.erasure_records import ErasureRecords, kept
from schemas import access_errors
from schemas.keys import DEFAULT_TENANT, contact_key, is_tenant
from schemas.settings import Settings
from sinks import erasure, erasure_conversations, erasure_search
from sinks.erasure_letters import LettersErasure
from sinks.erasure_search import ErasedPerson, KnownOptOut

MOST_WAIT_SECONDS = 600.0


def erase(  # noqa: PLR0917  # typer makes an option of each
    contact: Annotated[str, typer.Option(metavar="ID", help="User id of the contact.")] = "",
    address: Annotated[
        str, typer.Option(metavar="CHANNEL:ADDRESS", help="Address of a person without a contact.")
    ] = "",
    tenant: Annotated[str, typer.Option(help="Tenant of the person.")] = DEFAULT_TENANT,
    keep_opt_outs: Annotated[
        bool,
        typer.Option(
            "--keep-opt-outs",
            help="Keep what the person refused: their addresses stay in the suppressions, and nowhere else.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be erased, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    operator: Annotated[
        str, typer.Option(help="Who does this, for the audit. Default: the user of this machine.")
    ] = "",
    wait: Annotated[float, typer.Option(min=0, max=MOST_WAIT_SECONDS, help="Seconds to wait for the workers.")] = 60.0,
) -> None:
    """Erase a person: text and addresses in PostgreSQL, in dead letters, in the tables of the workers, and the contact.

    What stays in Kafka until its retention is over is printed, topic by topic. It cannot be undone.

    Examples:

    `chat4all erase --contact ana --tenant shop --dry-run`

    `chat4all erase --address whatsapp:15551234567`
    """
    _check(contact, address, tenant)
    settings = settings_with("postgres_url", *(() if dry_run else ("kafka_url",)))
    with _connected(settings) as connection:
        person = _with_accounts(_person(connection, tenant, contact, address), settings)
        if not _is_planned(connection, person, keep_opt_outs=keep_opt_outs):
            return
        if dry_run:
            _draw_kept(settings)
            return
        if not yes and not typer.confirm("Erase them? It cannot be undone"):
            fail("nothing was erased", NO)
        kafka = ErasureKafka(operator_access(settings))
        who = operator or pwd.getpwuid(getuid()).pw_name
        _draw_done(_erased(connection, person, kafka, who, keep_opt_outs=keep_opt_outs))
    _draw_kept(settings)
    _wait(kafka, wait)


def audit(
    tenant: Annotated[str, typer.Option(help="Only actions of this tenant. Default: of all tenants.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many actions, the newest first.")] = 50,
) -> None:
    """Show what operators did with a command that changes data: erasures, replays.

    Example: `chat4all audit --tenant shop`.
    """
    if tenant:
        _check_tenant(tenant)
    with _connected(settings_with("postgres_url")) as connection:
        rows = connection.execute(
            "select began_at, ended_at, action, tenant_id, operator, action_id, detail, result from operator_actions"
            " where %(tenant)s = '' or tenant_id = %(tenant)s order by began_at desc, action_id limit %(limit)s",
            {"tenant": tenant, "limit": limit},
        ).fetchall()
    if not rows:
        console.print("no operator action is recorded")
        return
    table = Table("began", "ended", "action", "tenant", "operator", "id", "about", "rows changed")
    for began, ended, action, of_tenant, operator, action_id, detail, result in rows:
        times = (f"{began:%Y-%m-%d %H:%M:%S}", "not yet" if ended is None else f"{ended:%Y-%m-%d %H:%M:%S}")
        table.add_row(
            *times, *map(shown, (action, of_tenant, operator, action_id, _words(detail), _words(result or {})))
        )
    console.print(table)


# --- the plan ---------------------------------------------------------------------------------------------------------------


def _is_planned(connection: psycopg.Connection, person: ErasedPerson, *, keep_opt_outs: bool) -> bool:
    """Prints what is to be erased; returns whether there is anything."""
    counts = Counter(erasure_search.survey(connection, person)) + Counter(LettersErasure(connection, person).count())
    counts["conversations"] += len(erasure_conversations.begun_by(connection, person))
    if keep_opt_outs:
        del counts["suppressions"]
    is_open = erasure.is_open(connection, person)
    if not +counts and not is_open:
        _nothing(connection, person)
        return False
    opt_outs = erasure_search.opt_outs(connection, person)
    _draw_plan(+counts, opt_outs, keep_opt_outs=keep_opt_outs, is_open=is_open)
    return True


# --- the erasure ------------------------------------------------------------------------------------------------------------


def _erased(
    connection: psycopg.Connection, person: ErasedPerson, kafka: ErasureKafka, operator: str, *, keep_opt_outs: bool
) -> Mapping[str, int]:
    """Does everything; returns the rows changed in PostgreSQL, by relation."""
    detail = {"kind": "contact" if person.user_id else "address", "keep_opt_outs": keep_opt_outs}
    action = erasure.begin(connection, person, operator, f"erase-{uuid.uuid4().hex}", detail)
    console.print(f"erasure {action.action_id}")
    records = ErasureRecords(person, action, partitions=kafka.partitions, keep_opt_outs=keep_opt_outs)
    kafka.produce(records.of_person())
    done: Counter[str] = Counter()
    steps = erasure.PersonErasure(connection, person, action, keep_opt_outs=keep_opt_outs)
    for number, changed in enumerate(steps.run(lambda found: kafka.produce(records.of(found))), 1):
        done.update(changed)
        if number % 20 == 0:
            console.print(f"{sum(done.values()):,} rows")
    if person.user_id:
        kafka.delete_contact(contact_key(person.tenant_id, person.user_id).encode())
        done.update(steps.forget_contact())
    return erasure.end(connection, action) or done


def _wait(kafka: ErasureKafka, seconds: float) -> None:
    """Waits for the workers, and says how far they are."""
    behind = kafka.wait(seconds, lambda left: console.print(f"the workers have {left} partitions to read"))
    if not behind:
        console.print("The workers have read it: their tables are erased.")
        return
    console.print(
        f"The workers have not read {behind} partitions of topic erasures yet. Their tables are erased when they do: start them, or see "
        "`chat4all status`.",
        style="yellow",
    )


def _person(connection: psycopg.Connection, tenant: str, contact: str, address: str) -> ErasedPerson:
    if contact:
        return erasure_search.contact(connection, tenant, contact)
    channel, _, of_channel = address.partition(":")
    return erasure_search.of_address(connection, tenant, channel, of_channel)


def _with_accounts(person: ErasedPerson, settings: Settings) -> ErasedPerson:
    """The person with the configured account for each address of which no account is known: match may know it by that."""
    known = {(each.channel, each.address) for each in person.addresses if each.account}
    addresses = [
        each
        if each.account or (each.channel, each.address) in known
        else replace(each, account=_account(each.channel, settings))
        for each in person.addresses
    ]
    return ErasedPerson(person.tenant_id, person.user_id, tuple(dict.fromkeys(addresses)))


def _account(channel: str, settings: Settings) -> str | None:
    declared = CHANNELS.get(channel)
    return (declared.account(settings) or None) if declared is not None else None


def _nothing(connection: psycopg.Connection, person: ErasedPerson) -> None:
    if erasure_search.is_erased(connection, person):
        console.print("This person was erased before, and nothing of them has come since. Nothing was changed.")
        return
    what = f"contact {person.user_id[:80]}" if person.user_id else "this address"
    fail(
        f"PostgreSQL has nothing of {what} in tenant {person.tenant_id}: check the id and --tenant. "
        "What was accepted a moment ago may not be there yet.",
        NO,
    )


# --- checks and texts -------------------------------------------------------------------------------------------------------


def _check(contact: str, address: str, tenant: str) -> None:
    _check_tenant(tenant)
    if bool(contact) == bool(address):
        raise typer.BadParameter("name one person: with --contact ID, or with --address CHANNEL:ADDRESS")
    if len(contact.encode(errors="surrogatepass")) > 256 or "\x00" in contact:
        raise typer.BadParameter("--contact: no contact has such a user id, it has at most 256 bytes")
    if address:
        channel, _, of_channel = address.partition(":")
        if channel not in CHANNELS or not of_channel or len(of_channel.encode(errors="surrogatepass")) > 256:
            raise typer.BadParameter(
                f"--address {address[:40]!r}: write CHANNEL:ADDRESS with a channel of {', '.join(CHANNELS)} and at most 256 bytes"
            )


def _check_tenant(tenant: str) -> None:
    if not is_tenant(tenant):
        raise typer.BadParameter(
            f"--tenant {tenant[:40]!r}: write 1 to 64 letters, digits, dots, dashes or underscores"
        )


@contextmanager
def _connected(settings: Settings) -> Iterator[psycopg.Connection]:
    url = settings.postgres_url
    try:
        with psycopg.connect(url, connect_timeout=10, autocommit=True) as connection:
            yield connection
    except psycopg.OperationalError as error:
        fail(access_errors.access_error(access_errors.of_url("PostgreSQL", url), error))
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        fail("PostgreSQL lacks our relations: run `python -m sinks.migrate`")
    except psycopg.errors.InsufficientPrivilege:
        fail("this user of PostgreSQL may not change the rows: use the owner of the relations (CHAT4ALL_POSTGRES_URL)")


def _draw_plan(counts: Mapping[str, int], opt_outs: list[KnownOptOut], *, keep_opt_outs: bool, is_open: bool) -> None:
    if is_open:
        console.print("An erasure of this person was interrupted: this one continues it.")
    table = Table("relation", title="Rows of the person in PostgreSQL", title_justify="left")
    table.add_column("rows", justify="right")
    for relation, number in counts.items():
        table.add_row(relation, f"{number:,}")
    console.print(table)
    for each in opt_outs:
        what = "is kept" if keep_opt_outs else "is forgotten too (--keep-opt-outs keeps it): messages may be sent again"
        console.print(shown(f"opt-out on {each.channel}, account {each.account}, {each.reason}: {what}"))


def _draw_done(done: Mapping[str, int]) -> None:
    table = Table("relation", title="Erased in PostgreSQL", title_justify="left")
    table.add_column("rows", justify="right")
    for relation, number in sorted(done.items()):
        table.add_row(relation, f"{number:,}")
    console.print(table)


def _draw_kept(settings: Settings) -> None:
    """What Kafka keeps."""
    days: dict[str, list[str]] = {}
    for each in kept():
        days.setdefault("until Kafka compacts it" if each.days is None else f"{each.days} days", []).append(each.topic)
    table = Table("kept", "topic", title="What stays in Kafka, for how long after it was written", title_justify="left")
    for how_long, topics in days.items():
        table.add_row(how_long, ", ".join(topics))
    table.add_row("until Kafka compacts it", "the changelog of the workers")
    console.print(table)
    console.print(
        f"Rows of the workers that no key of the person finds end by themselves, bindings after {settings.binding_days:g} days. "
        "ClickHouse has no address and no text. Backups are yours to erase. docs/erasure.md says more."
    )


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value not in (None, "", [], {}))
