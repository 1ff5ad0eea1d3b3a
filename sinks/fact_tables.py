"""The relations of facts that stages insert into, and how records become their columns.

Enters: delivery states, sequenced messages, dead letters. Leaves: rows, and columns of ClickHouse's types. Guaranteed: equal rows and an
equal token give equal columns, so that a repeated insert is the identical one; every time is within ClickHouse's range; no text, no
address and no label but `campaign` is in a row. No I/O.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

from schemas.records import CHANNELS, SIGNALS, DeadLetter, Direction, SequencedMessage
from sinks.storable_text import are_held, held

_WORD = "LowCardinality(String)"
_TIME = "DateTime64(3, 'UTC')"  # takes our milliseconds as they are
_MAYBE = f"Nullable({_TIME})"
_TEXTS = {_WORD, "String"}

LABEL_CHARACTERS = 100  # of a campaign or an account; a longer one becomes its beginning and a digest
CAMPAIGN = "campaign"  # the only label of a message that enters ClickHouse
BATCH = "batch"


@dataclass(frozen=True, slots=True)
class FactTable:
    """A relation that a stage inserts into. `columns` is name -> ClickHouse's type, as in ddl/clickhouse/0006_daily.sql, so that the client
    need not send a DESCRIBE before each insert; each is the field of a row, but `batch`. The columns `identity` name a row. `day` is the
    time whose day the relation is partitioned by."""

    name: str
    columns: dict[str, str]
    identity: tuple[str, ...]
    day: str = "accepted_at"


class AcceptedDelivery(NamedTuple):
    """A delivery that stage route accepted."""

    tenant_id: str
    channel: str
    account: str
    delivery_id: str
    message_id: str
    conversation_id: str
    home_partition: int
    seq: int
    kind: str
    campaign: str
    fallback_of: str | None
    accepted_at: int
    not_before: int | None


class InboundEvent(NamedTuple):
    """A message that a person wrote to us. Channel and account are empty when its labels do not name them."""

    tenant_id: str
    channel: str
    account: str
    message_id: str
    conversation_id: str
    home_partition: int
    seq: int
    kind: str
    received_at: int
    accepted_at: int


class DeadLetterEvent(NamedTuple):
    """A dead letter without its bytes and without its detail, which may quote them."""

    tenant_id: str
    dead_letter_id: str
    stage: str
    cause: str
    source_topic: str
    channel: str
    source_partition: int
    source_offset: int
    refused_at: int
    value_bytes: int


EVENTS = FactTable(
    "delivery_events",
    {
        "tenant_id": _WORD,
        "delivery_id": "String",
        "message_id": "String",
        "conversation_id": "String",
        "home_partition": "Int32",
        "seq": "Int64",
        "channel": _WORD,
        "account": _WORD,
        "version": "Int32",
        "previous_status": _WORD,
        "status": _WORD,
        "cause": _WORD,
        "anomaly": _WORD,
        "occurred_at": _TIME,
        "observed_at": _TIME,
        "requested_at": _TIME,
        "accepted_at": _TIME,
        "dispatched_at": _MAYBE,
        "sent_at": _MAYBE,
        "delivered_at": _MAYBE,
        "read_at": _MAYBE,
        "failed_at": _MAYBE,
        "delivered_implied": "Bool",
        "attempts": "Int32",
        "resends": "Int32",
        "reason_code": _WORD,
        "stalled_at": _MAYBE,
        "kind": _WORD,
        "attempt": "Int32",
        "reported": _WORD,
        "throttled": "Bool",
        "retry_at": _MAYBE,
        "throttles": "Int32",
        "not_before": _MAYBE,
        "ready_at": _MAYBE,
        "first_dispatched_at": _MAYBE,
        "fallback_of": "String",
        BATCH: "UInt64",
    },
    ("tenant_id", "delivery_id", "version"),
)
ACCEPTED = FactTable(
    "accepted_deliveries",
    {
        "tenant_id": _WORD,
        "channel": _WORD,
        "account": _WORD,
        "delivery_id": "String",
        "message_id": "String",
        "conversation_id": "String",
        "home_partition": "Int32",
        "seq": "Int64",
        "kind": _WORD,
        "campaign": _WORD,
        "fallback_of": "String",
        "accepted_at": _TIME,
        "not_before": _MAYBE,
        BATCH: "UInt64",
    },
    ("tenant_id", "delivery_id"),
)
INBOUND = FactTable(
    "inbound_events",
    {
        "tenant_id": _WORD,
        "channel": _WORD,
        "account": _WORD,
        "message_id": "String",
        "conversation_id": "String",
        "home_partition": "Int32",
        "seq": "Int64",
        "kind": _WORD,
        "received_at": _TIME,
        "accepted_at": _TIME,
        BATCH: "UInt64",
    },
    ("tenant_id", "conversation_id", "message_id"),
)
DEAD_LETTERS = FactTable(
    "dead_letter_events",
    {
        "tenant_id": _WORD,
        "dead_letter_id": "String",
        "stage": _WORD,
        "cause": _WORD,
        "source_topic": _WORD,
        "channel": _WORD,
        "source_partition": "Int32",
        "source_offset": "Int64",
        "refused_at": _TIME,
        "value_bytes": "Int64",
    },
    ("tenant_id", "dead_letter_id"),
    day="refused_at",
)
# The relations whose deduplication window counts for a relation: itself, and those that views fill from it.
FILLED = {
    EVENTS.name: (EVENTS.name, "deliveries", "attempts", "deliveries_by_minute", "deliveries_by_hour"),
    ACCEPTED.name: (ACCEPTED.name, "accepted_by_minute"),
    INBOUND.name: (INBOUND.name,),
}


def batch_of(token: str) -> int:
    """The number that names an insert in the column `batch`: 64 bits of the token's SHA-256, never 0."""
    return int.from_bytes(hashlib.sha256(token.encode()).digest()[:8]) or 1


def columns(table: FactTable, rows: Sequence[Any], batch: int = 0) -> list[list[Any]]:
    """The rows as ClickHouse's columns: one list per column, in the order of the relation's. `batch` is that of all rows."""
    return [
        [batch] * len(rows) if name == BATCH else _column(list(map(attrgetter(name), rows)), type_)
        for name, type_ in table.columns.items()
    ]


def _column(values: list[Any], type_: str) -> list[Any]:
    """The column as it is, if every value can be stored as it is: so nearly always there is one look at all of them, and none at each."""
    if type_ == _TIME:
        return values if are_held(values) else list(map(held, values))
    if type_ == _MAYBE:
        known = [at for at in values if at is not None]
        return values if are_held(known) else [None if at is None else held(at) for at in values]
    if type_ in _TEXTS and None in values:
        return [value or "" for value in values]
    return values


def accepted(message: SequencedMessage) -> list[AcceptedDelivery]:
    """One row for each delivery of a message that we send; none for a signal, which has no receipt."""
    if message.direction != Direction.OUTBOUND or message.kind in SIGNALS:
        return []
    campaign = label(message.metadata.get(CAMPAIGN, ""))
    return [
        AcceptedDelivery(
            message.tenant_id,
            each.channel,
            each.account,
            each.delivery_id,
            message.message_id,
            message.conversation_id,
            message.home_partition,
            message.seq,
            message.kind,
            campaign,
            each.fallback_of,
            message.accepted_at,
            message.not_before,
        )
        for each in message.deliveries
    ]


def inbound(message: SequencedMessage) -> list[InboundEvent]:
    """One row for a message that a person wrote; stage match put channel and account into its labels."""
    if message.direction != Direction.INBOUND:
        return []
    channel = message.metadata.get("channel", "")
    return [
        InboundEvent(
            message.tenant_id,
            channel if channel in CHANNELS else "",
            label(message.metadata.get("account", "")),
            message.message_id,
            message.conversation_id,
            message.home_partition,
            message.seq,
            message.kind,
            message.requested_at,
            message.accepted_at,
        )
    ]


def refused(letter: DeadLetter) -> DeadLetterEvent:
    """The row of a dead letter. Its channel is that of the topic, or the first part of a key such as a receipt's."""
    first = letter.source_topic.removeprefix("deliveries.")
    if first == letter.source_topic:
        first = (letter.key or b"").partition(b":")[0].decode(errors="replace")
    size = len(letter.value or b"") if letter.value_length is None else letter.value_length
    return DeadLetterEvent(
        letter.tenant_id,
        letter.dead_letter_id,
        letter.stage,
        letter.cause,
        letter.source_topic,
        first if first in CHANNELS else "",
        letter.source_partition,
        letter.source_offset,
        letter.refused_at,
        size,
    )


def label(text: str) -> str:
    """A campaign or an account as ClickHouse holds it."""
    if len(text) <= LABEL_CHARACTERS:
        return text
    return f"{text[:LABEL_CHARACTERS]}~{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}"
