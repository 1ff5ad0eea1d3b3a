"""The history as tables for a person, readable in 100 columns.

Enters: what sinks/history*.py answer. Leaves: tables of rich. Guaranteed: characters that control a terminal are replaced; pure, except
that `draw_conversation` prints.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from rich.table import Table
from rich.text import Text

from cli.message import clock, shown
from cli.terminal import console
from sinks.history import ArchivedMessage, ConversationView, DeliverySummary, PersonConversation
from sinks.history_failures import (
    ArchivedDeadLetter,
    EndedAttempt,
    FailedCause,
    FailedDelivery,
    IgnoredReceipt,
    OperatorAction,
    SuppressionState,
    UnmatchedReceipt,
)
from sinks.history_search import FoundMessage

T = TypeVar("T")
Cell = str | Text
LONGEST = 400  # characters of a text in a table


def seconds(at: int | None) -> str:
    """Unix milliseconds as a date and time in UTC, to the second; empty for None."""
    return "" if at is None else f"{clock(at)[:19]}Z"


def draw_conversation(found: ConversationView) -> None:
    """Prints what is known of a conversation as a whole: counts, times, members."""
    console.print(shown(f"Conversation {found.conversation_id} of tenant {found.tenant_id}", style="bold"))
    statuses = ", ".join(f"{number:,} {status}" for status, number in found.statuses.items())
    times = f"{seconds(found.first.accepted_at)} to {seconds(found.last.accepted_at)}"
    console.print(f"{found.messages:,} messages, {found.inbound:,} of them inbound; {times}", highlight=False)
    console.print(f"deliveries: {statuses or 'none'}", highlight=False)
    if found.members:
        console.print(
            _table(
                found.members,
                {
                    "member": lambda m: m.member,
                    "delivered up to": lambda m: _number(m.last_delivered_seq),
                    "read up to": lambda m: _number(m.last_read_seq),
                    "newest": lambda m: _number(m.newest_seq),
                    "changed": lambda m: seconds(m.changed_at),
                },
            )
        )


def messages(items: Sequence[ArchivedMessage]) -> Table:
    """One row a message, with its text, media and deliveries."""
    return _table(
        items,
        {
            "seq": lambda m: str(m.seq),
            "accepted": lambda m: seconds(m.accepted_at),
            "from": lambda m: f"{'<-' if m.direction == 'INBOUND' else '->'} {m.sender}",
            "text": _message_text,
            "deliveries": lambda m: "\n".join(f"{number} {status}" for status, number in m.statuses.items()),
        },
    )


def _message_text(message: ArchivedMessage) -> str:
    kind = "" if message.kind == "text" else f"[{message.kind}] "
    lines = [
        f"{kind}{_cut(message.text)}",
        *(f"{name}: {_cut(_flat(value))}" for name, value in (message.content or {}).items()),
    ]
    return "\n".join([*lines, f"id {message.message_id}", *map(_delivery, message.deliveries)])


def _delivery(delivery: DeliverySummary) -> str:
    why = " ".join(filter(None, (delivery.reason_code, delivery.reason)))
    return f"{delivery.channel}:{delivery.recipient} {delivery.status} {_cut(why)}".rstrip()


def conversations(items: Sequence[PersonConversation]) -> Table:
    """One row a conversation of a person."""
    return _table(
        items,
        {
            "last active": lambda c: seconds(c.active_at),
            "conversation": lambda c: c.conversation_id,
            "as": lambda c: ", ".join(c.names),
            "channels": lambda c: ", ".join(c.channels),
            "read up to": lambda c: _number(c.last_read_seq),
            "newest": lambda c: _number(c.last_seq),
        },
    )


def found(items: Sequence[FoundMessage]) -> Table:
    """One row a message, with the words that were looked for in bold."""
    return _table(
        items,
        {
            "accepted": lambda m: seconds(m.accepted_at),
            "conversation": lambda m: m.conversation_id,
            "message": lambda m: m.message_id,
            "from": lambda m: f"{'<-' if m.direction == 'INBOUND' else '->'} {m.sender}",
            "text": lambda m: Text.assemble(*(shown(part.text, "bold" if part.match else "") for part in m.snippet)),
        },
    )


def causes(items: Sequence[FailedCause]) -> Table:
    """One row a cause."""
    return _table(
        items,
        {
            "deliveries": lambda c: f"{c.deliveries:,}",
            "status": lambda c: c.status,
            "code": lambda c: c.reason_code,
            "channel": lambda c: c.channel,
            "last accepted": lambda c: seconds(c.last_accepted_at),
            "for example": lambda c: _cut(c.reason or ""),
        },
    )


def failed(items: Sequence[FailedDelivery]) -> Table:
    """One row a delivery."""
    return _table(
        items,
        {
            "accepted": lambda d: seconds(d.accepted_at),
            "conversation": lambda d: d.conversation_id,
            "message": lambda d: d.message_id,
            "to": lambda d: f"{d.channel}:{d.recipient}",
            "tries": lambda d: str(d.attempts),
            "reason": lambda d: _cut(d.reason or ""),
        },
    )


def attempts(items: Sequence[EndedAttempt]) -> Table:
    """One row an attempt."""
    return _table(
        items,
        {
            "attempt": lambda a: str(a.attempt),
            "outcome": lambda a: f"{a.outcome}{' (throttled)' if a.throttled else ''}",
            "cause": lambda a: a.cause.lower(),
            "ended": lambda a: clock(a.ended_at),
            "retry at": lambda a: seconds(a.retry_at),
            "reason": lambda a: _cut(" ".join(filter(None, (a.reason_code, a.reason)))),
        },
    )


def ignored(items: Sequence[IgnoredReceipt]) -> Table:
    """One row a receipt that changed nothing."""
    return _table(
        items,
        {
            "observed": lambda r: seconds(r.observed_at),
            "delivery": lambda r: r.delivery_id,
            "version": lambda r: str(r.version),
            "reported": lambda r: r.reported,
            "reason": lambda r: r.reason,
        },
    )


def orphans(items: Sequence[UnmatchedReceipt]) -> Table:
    """One row a receipt without a delivery."""
    return _table(
        items,
        {
            "refused": lambda r: seconds(r.refused_at),
            "account": lambda r: f"{r.channel}:{r.account}",
            "provider's id": lambda r: r.provider_message_id,
            "status": lambda r: r.status,
            "cause": lambda r: r.cause,
        },
    )


def dead_letters(items: Sequence[ArchivedDeadLetter]) -> Table:
    """One row a dead letter."""
    return _table(
        items,
        {
            "refused": lambda d: seconds(d.refused_at),
            "stage": lambda d: d.stage,
            "cause": lambda d: d.cause,
            "id": lambda d: d.dead_letter_id,
            "record": lambda d: f"{d.source_topic}[{d.source_partition}]@{d.source_offset}",
            "detail": lambda d: _cut(d.detail),
        },
    )


def actions(items: Sequence[OperatorAction]) -> Table:
    """One row an action of an operator."""
    return _table(
        items,
        {
            "began": lambda a: seconds(a.began_at),
            "ended": lambda a: seconds(a.ended_at),
            "action": lambda a: a.action,
            "operator": lambda a: a.operator,
            "detail": lambda a: _cut(_flat(a.detail)),
            "result": lambda a: "" if a.result is None else _cut(_flat(a.result)),
        },
    )


def suppressions(items: Sequence[SuppressionState]) -> Table:
    """One row an address of an account."""
    return _table(
        items,
        {
            "account": lambda s: f"{s.channel}:{s.account}",
            "address": lambda s: s.address,
            "may be written to": lambda s: "no" if s.suppressed else "yes",
            "since": lambda s: seconds(s.changed_at),
            "reason": lambda s: s.reason,
        },
    )


def dead_letter(item: ArchivedDeadLetter) -> Table:
    """All fields of one dead letter, one in a row. Bytes that are no text are escaped as Python does it."""
    table = Table(show_header=False)
    for name, value in dataclasses.asdict(item).items():
        if isinstance(value, bytes):
            text = value.decode("utf-8", "backslashreplace")
        elif name.endswith("_at") or name == "source_timestamp":
            text = seconds(value)
        else:
            text = "" if value is None else value if isinstance(value, str) else _flat(value)
        table.add_row(name, shown(text))
    return table


def _table(items: Sequence[T], columns: Mapping[str, Callable[[T], Cell]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in columns:
        table.add_column(heading, overflow="fold", no_wrap=heading in {"accepted", "refused", "observed", "began"})
    for item in items:
        cells = (cell(item) for cell in columns.values())
        table.add_row(*(cell if isinstance(cell, Text) else shown(cell) for cell in cells))
    return table


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text):,} characters)"


def _flat(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
