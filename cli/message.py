"""`chat4all message`: send a message, and show the timeline of a message.

Enters: options, and the configured Kafka and PostgreSQL. Leaves: text for a person; else exit code 1 or 2, and one sentence.
Guaranteed: `send` reports success only when Kafka has acknowledged the message on all its in-sync replicas.
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
from schemas.content import Content, Media
from schemas.kafka_access import KafkaAccess
from schemas.kafka_reachability import KafkaReachability, Unreached
from schemas.keys import DEFAULT_TENANT, is_tenant, key_of
from schemas.message_validation import contradiction
from schemas.records import CHANNELS, KINDS, MEDIA_KINDS, Message, Recipient
from sinks.history import MessageTimeline, Trail, timelines
from sinks.history_pages import Row

app = typer.Typer(help="Send a message, or show the timeline of a message.", no_args_is_help=True)

_CONNECT_SECONDS = 2.0
_ACKNOWLEDGED_WITHIN_SECONDS = 15.0
_SHOWN = 20  # conversations with the same message id
# Control characters except new line and tab, line separators, characters that change the direction of writing, and lone surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u206f\ud800-\udfff]")
_STEPS = ("requested", "accepted", "dispatched", "sent", "delivered", "read", "failed")


@app.command()
def send(  # noqa: PLR0917  # typer makes an option of each
    conversation: Annotated[str, typer.Option(help="Id of the conversation.")],
    to: Annotated[
        list[str],
        typer.Option(
            metavar="RECIPIENT",
            help=f"A recipient: CHANNEL:ADDRESS with a channel of {', '.join(CHANNELS)}; or user:USER_ID. Repeat it for more recipients.",
        ),
    ],
    text: Annotated[str, typer.Option(help="The text, or the caption of media.")] = "",
    kind: Annotated[str, typer.Option(help=f"Kind of message: {', '.join(KINDS)}.")] = "text",
    media_url: Annotated[list[str] | None, typer.Option(help="Link to a file. Repeat it for an album.")] = None,
    reply_to: Annotated[
        str | None, typer.Option(help="The provider's id of the message to reply or to react to.")
    ] = None,
    reaction: Annotated[str | None, typer.Option(help="The emoji of a reaction; empty removes the reaction.")] = None,
    message_id: Annotated[
        str,
        typer.Option(
            "--id", help="Id of the message. A second message with the same id is a duplicate. Default: random."
        ),
    ] = "",
    tenant: Annotated[str, typer.Option(help="Tenant of the message.")] = "default",
) -> None:
    """Produce one message to Kafka, as an application does. Prints the command that shows its timeline.

    Examples:

    `chat4all message send --conversation c1 --to whatsapp:15550001234 --text Hello`

    `chat4all message send --conversation c1 --to telegram:5550101 --kind image --media-url https://example.org/photo.jpg`
    """
    if not is_tenant(tenant):
        raise typer.BadParameter(
            f"--tenant {tenant[:40]!r}: write 1 to 64 letters, digits, dots, dashes or underscores"
        )
    media = tuple(medium(kind, url) for url in media_url or ())
    given = Content(media=media, reply_to=reply_to, reaction=reaction)
    content = None if given == Content() else given
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
    tenant: Annotated[str, typer.Option(help="Tenant of the message.")] = "default",
    conversation: Annotated[
        str | None,
        typer.Option(
            help="Show only the message of this conversation. Default: the messages of all conversations that have this id."
        ),
    ] = None,
) -> None:
    """Show the timeline of a message and of each of its deliveries, from PostgreSQL.

    Example: `chat4all message show m-42 --tenant shop --conversation c1`.
    """
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
            f"no message {message_id} {place} in PostgreSQL: it has not arrived there yet, or it was refused (topic dead-letters)",
            NO,
        )
    draw_all(found)


def medium(kind: str, url: str) -> Media:
    """The medium for a link. Its kind is the message's; in an album, the kind that the file's name shows."""
    type_ = mimetypes.guess_type(url)[0] or ""
    if kind in MEDIA_KINDS:
        return Media(kind, url=url, mime_type=type_)
    of_type = type_.partition("/")[0]
    return Media(of_type if of_type in MEDIA_KINDS else "document", url=url, mime_type=type_)


def recipient(text: str) -> Recipient:
    """`channel:address` or `user:<id>` as a recipient. Raises typer.BadParameter for another channel or form."""
    channel, colon, address = text.partition(":")
    if not colon or not address or channel not in (*CHANNELS, "user"):
        raise typer.BadParameter(
            f"{text!r}: write <channel>:<address> with a channel of {', '.join(CHANNELS)}; or user:<user id>"
        )
    return Recipient(user_id=address) if channel == "user" else Recipient(channel=channel, address=address)


def produce(kafka: KafkaAccess, message: Message) -> str:
    """Produces the message and blocks until Kafka has it on all in-sync replicas. Returns topic[partition]@offset. When Kafka does not
    acknowledge it, ends the command with one sentence."""
    reports: list[tuple[KafkaError | None, KafkaRecord]] = []
    reach = KafkaReachability(kafka)
    try:
        settings = reach.settings("message")  # errors are in the delivery report below
    except Unreached as error:
        fail(str(error))
    producer = Producer(
        {
            **settings,
            "partitioner": "murmur2_random",  # Java's default; it puts the conversation into its home partition
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
    """Connects before anything is produced: librdkafka checks only every 500 ms whether a broker can give an idempotent producer its id.
    If Kafka does not answer, the delivery report says so later."""
    with suppress(KafkaException):
        for _ in range(2):  # the first answer comes over the bootstrap connection, the second over the broker's own
            producer.list_topics("messages", timeout=_CONNECT_SECONDS)


def draw_all(found: Sequence[MessageTimeline]) -> None:
    """Prints each message that has the id, one conversation after the other."""
    if len(found) > 1:
        several = str(len(found)) if len(found) <= _SHOWN else f"more than {_SHOWN}"
        last = "" if len(found) <= _SHOWN else f", the first {_SHOWN}"
        heading = f"{several} messages have this id, each in another conversation{last} (--conversation shows one):"
        console.print(heading, style="bold")
    for n, each in enumerate(found[:_SHOWN]):
        if n:
            console.print()
        draw(each, with_conversation=len(found) > 1)


def draw(found: MessageTimeline, *, with_conversation: bool = False) -> None:
    """Prints the timeline as tables."""
    place = f" in conversation {found.conversation_id}" if with_conversation else ""
    if found.message is not None or with_conversation:
        console.print(shown(f"Message {found.message_id}{place}", style="bold"))
    if found.message is not None:
        console.print(_message(found.message))
    if found.roll_up is not None and len(found.trails) > 1:
        console.print(_roll_up(found.roll_up))
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


def _roll_up(roll_up: Row) -> Text:
    """One line about all deliveries of a message: how many have each status, and whether all, some or none got further."""
    statuses = ("read", "delivered", "sent", "pending", "failed", "expired", "cancelled", "suppressed")
    counts = ", ".join(f"{roll_up[status]} {status.upper()}" for status in statuses if roll_up[status])
    steps = ", ".join(f"{step}: {roll_up[f'all_{step}']}" for step in ("sent", "delivered", "read", "failed"))
    return Text(
        f"{roll_up['deliveries']} deliveries: {counts}; {steps}; best {roll_up['best']}, worst {roll_up['worst']}"
    )


def _steps(trail: Trail) -> Table:
    """The steps of a delivery, each with the time since the previous step and since it was accepted."""
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
    """A text from outside, safe to print: characters that control the terminal are replaced. Joined emoji and combining marks stay."""
    return Text(_UNSAFE.sub("\ufffd", text.replace("\r\n", "\n")), style=style)


def clock(at: int) -> str:
    """Unix milliseconds as a date and time in UTC."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def after(before: int, at: int) -> str:
    """The time between two steps, in milliseconds."""
    return f"{at - before:+,} ms"
