"""`chat4all receipts`: ask providers for receipts whose webhooks were lost.

Enters: the deliveries in PostgreSQL that wait for a receipt. Leaves: the receipts that the providers know, in topic `receipts`, and
a table; exit code 0, or 1 when a provider refused to answer, or 2 and one sentence. Guaranteed: a receipt is in Kafka before the command
says so; nothing counts twice, because the receipts have the ids of their webhooks.
"""

import asyncio
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import psycopg
import typer
from rich.table import Table

from cli.command_errors import NO, fail, settings_with
from cli.message import clock, shown
from cli.terminal import console
from connectors.registry import CHANNELS
from pipelines import receipt_sweep
from pipelines.acknowledged_producer import AcknowledgedProducer, NotAcknowledged
from pipelines.receipt_sweep import SweptChannel
from schemas import access_errors
from schemas.accounts import accounts_in
from schemas.records import Status
from schemas.settings import Settings
from sinks.history import WaitingDelivery, waiting_deliveries

app = typer.Typer(help="Ask providers for receipts whose webhooks were lost.", no_args_is_help=True)

_AGE = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_MOST = 10_000
_LISTED = 20  # deliveries of a channel that the table names; --json has all


@app.callback()
def receipts() -> None:
    """Ask providers for receipts whose webhooks were lost."""


@app.command()
def sweep(  # noqa: PLR0917  # typer makes an option of each
    channel: Annotated[
        list[str] | None, typer.Option(help="Only this channel. Repeat it for more. Default: all.")
    ] = None,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Also deliveries that are SENT for longer than this: 90s, 30m, 6h, 2d.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=_MOST, help="At most this many deliveries of a channel.")] = 100,
    per_second: Annotated[float, typer.Option(min=0.01, max=20, help="At most this many questions a second.")] = 2.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask, but produce nothing to Kafka.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Ask the providers about stalled deliveries (PostgreSQL's view stalled_deliveries); produce the receipts that they know.

    Where a provider cannot be asked, the command says why, and lists what is stalled. Repeating it is harmless.

    Example: `chat4all receipts sweep --older-than 2h --dry-run`.
    """
    unknown = [each for each in channel or () if each not in CHANNELS]
    if unknown:
        fail(f"there is no channel {unknown[0]!r}: choose one of {', '.join(CHANNELS)}")
    before = None if not older_than else datetime.now(UTC) - timedelta(seconds=_age(older_than))
    settings = settings_with("postgres_url", *(() if dry_run else ("kafka_url",)))
    waiting = _waiting(settings.postgres_url, channel or list(CHANNELS), limit + 1, before)
    swept = asyncio.run(_swept(settings, {name: found[:limit] for name, found in waiting.items()}, per_second, dry_run))
    more = frozenset(name for name, found in waiting.items() if len(found) > limit)
    if as_json:
        print(json.dumps({"dry_run": dry_run, "channels": [_plain(each, more) for each in swept]}, indent=1))
    else:
        _draw(swept, more, dry_run=dry_run)
    if any(each.refused for each in swept):
        raise typer.Exit(NO)


def _age(text: str) -> int:
    """The seconds of `90s`, `30m`, `6h` or `2d`. Raises typer.BadParameter."""
    found = _AGE.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"--older-than {text[:20]!r}: write a number and s, m, h or d, as in 30m or 2d")
    return int(found[1]) * _SECONDS[found[2]]


def _waiting(
    url: str, channels: Sequence[str], at_most: int, before: datetime | None
) -> dict[str, tuple[WaitingDelivery, ...]]:
    """The deliveries that wait for a receipt, by channel. A channel whose last sign is SENT waits for none, whatever their age is."""
    try:
        with psycopg.connect(url, connect_timeout=10) as connection:
            return {
                name: waiting_deliveries(
                    connection,
                    name,
                    at_most,
                    None if CHANNELS[name].capabilities.last_sign is Status.SENT else before,
                )
                for name in channels
            }
    except psycopg.OperationalError as error:
        fail(access_errors.access_error(access_errors.of_url("PostgreSQL", url), error))
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        fail("PostgreSQL lacks our relations: run `python -m sinks.migrate`")


async def _swept(
    settings: Settings, waiting: Mapping[str, Sequence[WaitingDelivery]], per_second: float, dry_run: bool
) -> list[SweptChannel]:
    """Sweeps one channel after the other; what a provider knows is in Kafka before the next one is asked."""
    accounts, found = accounts_in(settings.accounts), []
    producer = None if dry_run else AcknowledgedProducer(settings.kafka, asyncio.get_running_loop())
    try:
        for name, deliveries in waiting.items():
            swept = await _one(settings, name, deliveries, per_second)
            if producer is not None and swept.receipts:
                refused = await producer.produce(receipt_sweep.records(swept.receipts, accounts))
                for each in refused:
                    fail(f"Kafka does not take a receipt: {each.detail}")
            found.append(swept)
    except NotAcknowledged as error:
        fail(
            f"Kafka at {settings.kafka} (CHAT4ALL_KAFKA_URL) did not store the receipts, run the command again: {error}"
        )
    finally:
        if producer is not None:
            await producer.close()
    return found


async def _one(
    settings: Settings, channel: str, deliveries: Sequence[WaitingDelivery], per_second: float
) -> SweptChannel:
    declared = CHANNELS[channel]
    missing = settings.missing(*declared.send_settings)
    if not deliveries:
        return SweptChannel(channel)
    if missing:
        named = ", ".join(f"CHAT4ALL_{name.upper()}" for name in missing)
        return receipt_sweep.unasked(channel, deliveries, declared.no_answers or f"set {named}")
    connector = declared.build(settings)
    try:
        return await receipt_sweep.sweep(channel, deliveries, connector, declared.no_answers, per_second=per_second)
    finally:
        await connector.close()


def _plain(swept: SweptChannel, more: frozenset[str]) -> dict[str, Any]:
    names = ("found", "missing", "refused", "not_asked")
    return {
        "channel": swept.channel,
        "asked": swept.asked,
        **{name: len(getattr(swept, name)) for name in names},
        "more_than_the_limit": swept.channel in more,
        "reasons": swept.reasons,
        "webhook_state": swept.webhook_state,
        "receipts": [{"event_id": each.event_id, "status": each.status} for each in swept.receipts],
        "deliveries": [{**dataclasses.asdict(each), "result": name} for name in names for each in getattr(swept, name)],
    }


def _draw(swept: Sequence[SweptChannel], more: frozenset[str], *, dry_run: bool) -> None:
    table = Table("channel")
    for heading in ("waiting", "asked", "found", "still missing", "no answer", "not asked"):
        table.add_column(heading, justify="right")
    table.add_column("why")
    for each in swept:
        parts = (each.found, each.missing, each.refused, each.not_asked)
        waiting = f"{sum(map(len, parts)):,}" + ("+" if each.channel in more else "")
        numbers = (f"{len(part):,}" for part in parts)
        why = [*each.reasons, *([each.webhook_state] if each.webhook_state else [])]
        table.add_row(each.channel, waiting, f"{each.asked:,}", *numbers, shown("; ".join(why)))
    console.print(table)
    if more:
        console.print("+: more are waiting than --limit takes; run the command again")
    found = sum(len(each.receipts) for each in swept)
    if found:
        console.print(
            f"{found:,} receipts, not produced (--dry-run)" if dry_run else f"{found:,} receipts are in Kafka"
        )
    for each in swept:
        _list(each.channel, [*each.missing, *each.refused, *each.not_asked])


def _list(channel: str, deliveries: Sequence[WaitingDelivery]) -> None:
    """The deliveries of a channel that still have no receipt."""
    if not deliveries:
        return
    title = f"{channel}: without a receipt" + (
        f", {_LISTED} of {len(deliveries):,}" if len(deliveries) > _LISTED else ""
    )
    table = Table("tenant", "account", "conversation", "message", "delivery", "sent", "stalled since", title=title)
    for each in deliveries[:_LISTED]:
        ids = (each.tenant_id, each.account, each.conversation_id, each.message_id, each.delivery_id)
        times = ("" if at is None else clock(at) for at in (each.sent_at, each.stalled_at))
        table.add_row(*map(shown, ids), *times)
    console.print(table)
