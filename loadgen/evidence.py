"""Three independent sources of evidence about a run: the loader's own log, the providers' call logs, PostgreSQL.

Enters: file paths and a connection. Leaves: an Evidence of one tenant, as plain values. Guaranteed: nothing is concluded here, and each
source is read on its own. An incomplete last line of a killed process is skipped; any other unreadable line raises ValueError.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import psycopg

PERSON = tuple[str, str]  # channel, address


class Name(NamedTuple):
    """The identity of a message within a tenant."""

    conversation_id: str
    message_id: str

    def __str__(self) -> str:
        return f"message {self.message_id} of conversation {self.conversation_id}"


@dataclass(frozen=True, slots=True)
class ProducedMessage:
    """One record that Kafka acknowledged to the loader. A message may be there twice: the loader produces duplicates on purpose. `at` is in
    Unix milliseconds."""

    message_id: str
    conversation_id: str
    partition: int
    offset: int
    at: int
    recipients: tuple[PERSON, ...]

    @property
    def name(self) -> Name:
        return Name(self.conversation_id, self.message_id)


@dataclass(frozen=True, slots=True)
class ProviderCall:
    """One call that a provider received. `n` counts the calls of a channel. A person got the message if and only if the call has a
    `provider_message_id`."""

    channel: str
    n: int
    at: int
    address: str
    name: Name | None  # from its text; None for a call that belongs to no load
    provider_message_id: str | None
    verdict: str


@dataclass(frozen=True, slots=True)
class ReportedReceipt:
    """One webhook of a provider that our gateway acknowledged: a receipt, or a message or reaction of a person."""

    channel: str
    n: int
    name: str
    provider_message_id: str


@dataclass(frozen=True, slots=True)
class Archived:
    """One row of PostgreSQL's `messages`, or of `message_conflicts` when `is_conflict`."""

    message_id: str
    conversation_id: str
    seq: int
    is_conflict: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """One row of PostgreSQL's `deliveries`. Times are Unix milliseconds."""

    delivery_id: str
    conversation_id: str
    message_id: str
    channel: str
    address: str
    status: str
    resends: int
    accepted_at: int
    sent_at: int | None = None
    delivered_at: int | None = None
    delivered_implied: bool = False
    reason: str | None = None
    recipient: str = ""
    seq: int = 0

    @property
    def name(self) -> Name:
        return Name(self.conversation_id, self.message_id)


@dataclass(frozen=True, slots=True)
class KeptCursor:
    """One row of PostgreSQL's `cursors`. None: not observable."""

    conversation_id: str
    member: str
    last_delivered_seq: int | None
    last_read_seq: int | None
    newest_seq: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence of all three sources."""

    produced: Sequence[ProducedMessage]
    calls: Sequence[ProviderCall]
    reported: Sequence[ReportedReceipt]
    archived: Sequence[Archived]
    kept: Sequence[Kept]
    cursors: Sequence[KeptCursor] = ()
    # message -> status -> deliveries, as PostgreSQL's `message_states` counts them; None: not read
    counts: Mapping[Name, Mapping[str, int]] | None = None


def gather(
    produced: Path, providers: Mapping[str, Path], connection: psycopg.Connection[Any], tenant_id: str = "default"
) -> Evidence:
    """Reads all three sources; blocks. `produced` is the loader's log, `providers` is channel -> call log. From PostgreSQL it reads only
    the conversations of the run. Raises OSError, ValueError for an unreadable line, and psycopg's errors."""
    records = read_produced(produced)
    calls: list[ProviderCall] = []
    reported: list[ReportedReceipt] = []
    for channel, path in providers.items():
        some_calls, some_reported = read_provider(channel, path)
        calls += some_calls
        reported += some_reported
    conversations = sorted({record.conversation_id for record in records})
    archived = read_messages(connection, tenant_id, conversations)
    kept = read_deliveries(connection, tenant_id, conversations)
    cursors = read_cursors(connection, tenant_id, conversations)
    counts = read_counts(connection, tenant_id, conversations)
    return Evidence(records, calls, reported, archived, kept, cursors, counts)


def read_produced(path: Path) -> list[ProducedMessage]:
    """The loader's log: {message_id, conversation_id, partition, offset, at, recipients: [[channel, address], ...]} a line."""
    return [
        ProducedMessage(
            message_id=line["message_id"],
            conversation_id=line["conversation_id"],
            partition=line["partition"],
            offset=line["offset"],
            at=line["at"],
            recipients=tuple((channel, plain(channel, address)) for channel, address in line["recipients"]),
        )
        for line in _lines(path)
    ]


def read_provider(channel: str, path: Path) -> tuple[list[ProviderCall], list[ReportedReceipt]]:
    """A simulator's log (simulators/provider_log.py): the calls it received, and the webhooks it sent."""
    calls, reported = [], []
    for line in _lines(path):
        if "receipt" in line:
            reported.append(ReportedReceipt(channel, line["n"], line["receipt"], line["provider_message_id"]))
        elif "verdict" in line:
            calls.append(
                ProviderCall(
                    channel=channel,
                    n=line["n"],
                    at=line["at"],
                    address=plain(channel, line["recipient"]),
                    name=_name(line["text_key"]),
                    provider_message_id=line["provider_message_id"],
                    verdict=line["verdict"],
                )
            )
    return calls, reported


def read_messages(connection: psycopg.Connection[Any], tenant_id: str, conversations: Sequence[str]) -> list[Archived]:
    """Every message of these conversations, with those in `message_conflicts`."""
    rows = connection.execute(
        """
        select message_id, conversation_id, seq, false from messages where tenant_id = %(t)s and conversation_id = any(%(c)s)
        union all
        select message_id, conversation_id, seq, true from message_conflicts where tenant_id = %(t)s and conversation_id = any(%(c)s)
        """,
        {"t": tenant_id, "c": list(conversations)},
    )
    return [Archived(*row) for row in rows]


def read_deliveries(connection: psycopg.Connection[Any], tenant_id: str, conversations: Sequence[str]) -> list[Kept]:
    """The deliveries of every message of these conversations."""
    rows = connection.execute(
        """
        select delivery_id, conversation_id, message_id, channel, address, status, resends,
               (extract(epoch from accepted_at) * 1000)::bigint, (extract(epoch from sent_at) * 1000)::bigint,
               (extract(epoch from delivered_at) * 1000)::bigint, delivered_implied, reason, recipient, seq
          from deliveries where tenant_id = %s and conversation_id = any(%s)
        """,
        (tenant_id, list(conversations)),
    )
    return [Kept(row[0], row[1], row[2], row[3], plain(row[3], row[4]), *row[5:]) for row in rows]


def read_cursors(connection: psycopg.Connection[Any], tenant_id: str, conversations: Sequence[str]) -> list[KeptCursor]:
    """The cursors of every member of these conversations."""
    rows = connection.execute(
        """
        select conversation_id, member, last_delivered_seq, last_read_seq, newest_seq
          from cursors where tenant_id = %s and conversation_id = any(%s)
        """,
        (tenant_id, list(conversations)),
    )
    return [KeptCursor(*row) for row in rows]


def read_counts(
    connection: psycopg.Connection[Any], tenant_id: str, conversations: Sequence[str]
) -> dict[Name, dict[str, int]]:
    """The rows of `message_states` of these conversations, without statuses that no delivery has."""
    names = ("pending", "sent", "delivered", "read", "failed", "expired", "cancelled", "suppressed")
    rows = connection.execute(
        f"select conversation_id, message_id, {', '.join(names)} from message_states"  # noqa: S608  # our own names
        " where tenant_id = %s and conversation_id = any(%s)".encode(),
        (tenant_id, list(conversations)),
    )
    return {
        Name(row[0], row[1]): {name.upper(): count for name, count in zip(names, row[2:], strict=True) if count}
        for row in rows
    }


def _name(text_key: str | None) -> Name | None:
    """The message that a load's text names (loadgen/scenario.py)."""
    conversation_id, slash, message_id = (text_key or "").partition("/")
    return Name(conversation_id, message_id) if slash else None


def plain(channel: str, address: str) -> str:
    """An address in one spelling for all three sources: WhatsApp accepts numbers with and without a plus."""
    return address.removeprefix("+") if channel == "whatsapp" else address


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = line.strip()
            if not text.endswith(b"}"):
                continue  # empty, or cut off by a kill
            try:
                yield orjson.loads(text)
            except orjson.JSONDecodeError as error:
                raise ValueError(f"{path.name} line {number} is not JSON: {error}") from error
