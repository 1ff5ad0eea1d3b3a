"""`chat4all message`: send one, and see what became of one.

Enters: options, and the configured Kafka and PostgreSQL. Leaves: what a person can read; exit code 1 or 2 with one sentence otherwise.
Guaranteed: `send` says nothing of a message before Kafka acknowledged it on all its replicas.
"""

import json
import mimetypes
import re
import shlex
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

import psycopg
import typer
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as KafkaRecord
from rich.table import Table
from rich.text import Text

from cli.command_errors import NO, fail, settings_with
from cli.terminal import console
from schemas import access_errors, codec
from schemas.kafka_access import KafkaAccess
from schemas.kafka_reachability import KafkaReachability, Unreached
from schemas.keys import DEFAULT_TENANT, is_tenant, key_of
from schemas.message_validation import contradiction
from schemas.records import CHANNELS, KINDS, MEDIA_KINDS, Content, Media, Message, Recipient
from sinks.reports import MessageTimeline, Row, Trail, timelines

app = typer.Typer(help="Send a message, and see what became of one.", no_args_is_help=True)

_CONNECT_SECONDS = 2.0
_ACKNOWLEDGED_WITHIN_SECONDS = 15.0
_SHOWN = 20  # conversations with the same message id
# Control characters but for new line and tab, separators of lines, what turns the direction of writing, and halves of surrogate pairs.
_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u206f\ud800-\udfff]")
_STEPS = ("requested", "accepted", "dispatched", "sent", "delivered", "read", "failed")


@app.command()
def send(  # noqa: PLR0917  # typer makes an option of each
    conversation: Annotated[str, typer.Option(help="Conversation the message belongs to.")],
    to: Annotated[list[str], typer.Option(help="channel:address, or user:<user id>; give it once per recipient.")],
    text: Annotated[str, typer.Option(help="The text, or the caption of media.")] = "",
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(KINDS)}.")] = "text",
    media_url: Annotated[list[str] | None, typer.Option(help="Link to a file; several make an album.")] = None,
    reply_to: Annotated[
        str | None, typer.Option(help="The provider's id of the message it answers or is about.")
    ] = None,
    reaction: Annotated[str | None, typer.Option(help="The emoji of a reaction; empty takes it back.")] = None,
    message_id: Annotated[str, typer.Option("--id", help="Id of the message; the same id again is a duplicate.")] = "",
    tenant: Annotated[str, typer.Option(help="Whose message it is.")] = "default",
) -> None:
    """Produce one message to Kafka, as any application would."""
    if not is_tenant(tenant):
        raise typer.BadParameter(f"--tenant {tenant[:40]!r}: 1 to 64 of letters, digits, point, dash, underscore")
    media = tuple(medium(kind, url) for url in media_url or ())
    said = Content(media=media, reply_to=reply_to, reaction=reaction)
    content = None if said == Content() else said
    wrong = contradiction(kind, text, content)
    if wrong is not None:
        raise typer.BadParameter(wrong)
    message = Message(
        tenant_id=tenant,
        message_id=message_id or f"m-{uuid.uuid4().hex}",
        conversation_id=conversation,
        recipients=tuple(recipient(each) for each in to),
        kind=kind,
        text=text,
        content=content,
        requested_at=time.time_ns() // 1_000_000,
    )
    where = produce(settings_with("kafka_url").kafka, message)
    print(f"acknowledged {message.message_id} at {where}")
    of_tenant = [] if tenant == DEFAULT_TENANT else ["--tenant", tenant]
    place = [*of_tenant, "--conversation", conversation]
    print(shlex.join(["chat4all", "message", "show", message.message_id, *(place if message_id else of_tenant)]))


@app.command()
def show(
    message_id: Annotated[str, typer.Argument(help="Id of the message.")],
    tenant: Annotated[str, typer.Option(help="Whose message it is.")] = "default",
    conversation: Annotated[
        str | None, typer.Option(help="Only the message of this conversation. [default: of every one that has the id]")
    ] = None,
) -> None:
    """The timeline of one message and of each of its deliveries, from PostgreSQL."""
    url = settings_with("postgres_url").postgres_url
    try:
        with psycopg.connect(url, connect_timeout=10) as connection:
            found = timelines(connection, message_id, tenant, conversation, _SHOWN + 1)
    except psycopg.OperationalError as error:
        fail(access_errors.access_error(access_errors.of_url("PostgreSQL", url), error))
    except psycopg.errors.UndefinedTable:
        fail("PostgreSQL lacks our relations: run `python -m sinks.migrate`")
    if not found:
        place = f"of tenant {tenant}" if conversation is None else f"of tenant {tenant} in conversation {conversation}"
        fail(
            f"no message {message_id} {place} in PostgreSQL: it is still on its way, or it was refused (topic dead-letters)",
            NO,
        )
    draw_all(found)


def medium(kind: str, url: str) -> Media:
    """The file behind a link: of the message's kind, in an album by the name of the file."""
    type_ = mimetypes.guess_type(url)[0] or ""
    if kind in MEDIA_KINDS:
        return Media(kind, url=url, mime_type=type_)
    of_type = type_.partition("/")[0]
    return Media(of_type if of_type in MEDIA_KINDS else "document", url=url, mime_type=type_)


def recipient(text: str) -> Recipient:
    """`channel:address` or `user:<id>` as a recipient; refused when the channel is none of ours."""
    channel, colon, address = text.partition(":")
    if not colon or not address or channel not in (*CHANNELS, "user"):
        raise typer.BadParameter(
            f"{text!r}: write <channel>:<address> with a channel of {', '.join(CHANNELS)}; or user:<user id>"
        )
    return Recipient(user_id=address) if channel == "user" else Recipient(channel=channel, address=address)


def produce(kafka: KafkaAccess, message: Message) -> str:
    """Produces the message and waits until Kafka has it on all replicas; returns topic[partition]@offset, or ends the command."""
    reports: list[tuple[KafkaError | None, KafkaRecord]] = []
    reach = KafkaReachability(kafka)
    try:
        settings = reach.settings("message")  # what goes wrong is in the report below
    except Unreached as error:
        fail(str(error))
    producer = Producer(
        {
            **settings,
            "partitioner": "murmur2_random",  # Java's default, so that the conversation lands in its home partition
            "enable.idempotence": True,
            "message.timeout.ms": int(_ACKNOWLEDGED_WITHIN_SECONDS * 1000),
        }
    )
    _connect(producer)
    try:
        producer.produce(
            "messages",
            key=key_of(message),
            value=codec.encode(message),
            on_delivery=lambda error, record: reports.append((error, record)),
        )
    except KafkaException as error:
        fail(f"not sent: {error.args[0].str()}")
    producer.flush(_ACKNOWLEDGED_WITHIN_SECONDS + 5)
    if not reports:
        fail(f"not acknowledged within {_ACKNOWLEDGED_WITHIN_SECONDS:.0f} s by Kafka at {kafka} (CHAT4ALL_KAFKA_URL)")
    refused, record = reports[0]
    if refused is not None:
        fail(reach.why() or f"not acknowledged by Kafka at {kafka} (CHAT4ALL_KAFKA_URL): {refused.str()}")
    return f"{record.topic()}[{record.partition()}]@{record.offset()}"


def _connect(producer: Producer) -> None:
    """Connects before anything is produced: librdkafka looks only every 500 ms whether a broker can give an idempotent producer its id.
    A Kafka that does not answer is what the delivery report says."""
    with suppress(KafkaException):
        for _ in range(2):  # the first answer comes over the bootstrap connection, the second one over a broker's own
            producer.list_topics("messages", timeout=_CONNECT_SECONDS)


def draw_all(found: Sequence[MessageTimeline]) -> None:
    """Each message that has the id, one conversation after the other."""
    if len(found) > 1:
        several = str(len(found)) if len(found) <= _SHOWN else f"more than {_SHOWN}"
        last = "" if len(found) <= _SHOWN else f", the first {_SHOWN}"
        heading = (
            f"{several} messages have this id, each in a conversation of its own{last} (--conversation shows one):"
        )
        console.print(heading, style="bold")
    for n, each in enumerate(found[:_SHOWN]):
        if n:
            console.print()
        draw(each, with_conversation=len(found) > 1)


def draw(found: MessageTimeline, *, with_conversation: bool = False) -> None:
    """The timeline as tables."""
    place = f" in conversation {found.conversation_id}" if with_conversation else ""
    if found.message is not None or with_conversation:
        console.print(shown(f"Message {found.message_id}{place}", style="bold"))
    if found.message is not None:
        console.print(_message(found.message))
    for trail in found.trails:
        delivery = trail.delivery
        heading = (
            f"{delivery['channel']}:{delivery['recipient']}  {delivery['status']}  delivery {delivery['delivery_id']}"
        )
        console.print(shown(f"\n{heading}", style="bold"))
        console.print(_steps(trail))
        console.print(_events(trail))


def _message(message: Row) -> Table:
    table = Table(show_header=False)
    for name in ("tenant_id", "conversation_id", "seq", "direction", "sender", "kind", "text"):
        table.add_row(name, shown(str(message[name])))
    for name, value in sorted((message.get("content") or {}).items()):
        for each in value if isinstance(value, list) else [value]:
            table.add_row(name, shown(each if isinstance(each, str) else json.dumps(each, ensure_ascii=False)))
    table.add_row("requested", clock(message["requested_at"]))
    table.add_row(
        "accepted", f"{clock(message['accepted_at'])}  {after(message['requested_at'], message['accepted_at'])}"
    )
    for name, value in sorted(message["metadata"].items()):
        table.add_row(shown(f"metadata {name}"), shown(value))
    return table


def _steps(trail: Trail) -> Table:
    """What was reached, each with the time since the step before and since it was accepted."""
    delivery = trail.delivery
    caption = f"attempts {delivery['attempts']}, resends after unknown {delivery['resends']}"
    if delivery["reason_code"] or delivery["reason"]:
        caption += f", {delivery['reason_code'] or ''} {delivery['reason'] or ''}".rstrip()
    table = Table("step", "at", caption=shown(caption), caption_justify="left")
    table.add_column("since the step before", justify="right")
    table.add_column("since accepted", justify="right")
    times = sorted(
        (delivery[f"{step}_at"], i, step) for i, step in enumerate(_STEPS) if delivery[f"{step}_at"] is not None
    )
    before: int | None = None
    for at, _, step in times:
        implied = " (implied by read)" if step == "delivered" and delivery["delivered_implied"] else ""
        table.add_row(
            step + implied, clock(at), "" if before is None else after(before, at), after(delivery["accepted_at"], at)
        )
        before = at
    return table


def _events(trail: Trail) -> Table:
    table = Table(
        "", "what happened", "status", "observed", title="transitions", title_justify="left", title_style="dim"
    )
    for event in trail.events:
        moved = (
            event["status"]
            if event["status"] == event["previous_status"]
            else f"{event['previous_status']} -> {event['status']}"
        )
        notes = [f"anomaly: {event['anomaly']}"] if event["anomaly"] else []
        notes += (
            [f"{event['reason_code'] or ''} {event['reason'] or ''}".strip()]
            if event["reason"] or event["reason_code"]
            else []
        )
        what = "; ".join([event["cause"].lower().replace("_", " "), *notes])
        table.add_row(
            str(event["version"]),
            shown(what, style="yellow" if event["anomaly"] else ""),
            moved,
            clock(event["observed_at"]),
        )
    return table


def shown(text: str, style: str = "") -> Text:
    """What a stranger wrote, without what would steer the terminal; joined emoji and the marks of any script stay whole."""
    return Text(_STEERS.sub("\ufffd", text.replace("\r\n", "\n")), style=style)


def clock(at: int) -> str:
    """Unix milliseconds as a date and time in UTC."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def after(before: int, at: int) -> str:
    """The time between two steps, in milliseconds."""
    return f"{at - before:+,} ms"
