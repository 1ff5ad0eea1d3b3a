"""The job that every contender does, and its source records.

Enters: Message records (Avro, Confluent framing), keyed by conversation; 5 % repeat an earlier message of their conversation. Leaves: one
SequencedMessage for each message: each message id once, sequences of a conversation 1, 2, 3 and so on. Two tables: ids seen, and last
sequences. Every contender reads and writes generic datums (a dict here, a GenericRecord in Java), because the benchmark compares engines,
not the classes of a product. So this module, unlike the product, uses fastavro itself. It also runs in contenders' own virtual
environments, so it needs no library but fastavro.
"""

import io
import random
import struct
from collections.abc import Iterator, Mapping
from typing import Any, cast

import fastavro
import fastavro.schema

from schemas import catalog

VERSION = 2
CONVERSATIONS = 10_000
DUPLICATES = 0.05
WINDOW = 10_000  # a repetition is one of the last so many messages
STARTED_AT = 1_760_000_000_000
_TEXT = "Your order has left our warehouse and will be with you on the day we promised; we thank you for waiting."
_HEADER = struct.Struct(">bI")
Datum = dict[str, Any]


def schema(record: str) -> catalog.Schema:
    """The job's schema of a record: always the same version, so that figures of different commits are of the same work."""
    return next(s for s in catalog.SCHEMAS if (s.record, s.version) == (record, VERSION))


def _schema(record: str, *, only: int | None = None) -> Any:
    """The schema as fastavro needs it, with times as plain milliseconds; with `only`, just so many of the first fields."""
    definition = dict(_without_logical_types(schema(record).definition))
    definition["fields"] = definition["fields"][:only]
    return fastavro.schema.parse_schema(definition, named_schemas={})


def _without_logical_types(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _without_logical_types(inner) for key, inner in node.items() if key != "logicalType"}
    if isinstance(node, list):
        return [_without_logical_types(inner) for inner in node]
    return node


_MESSAGE = _schema("Message")
_SEQUENCED = _schema("SequencedMessage")
_PLACE = _schema("SequencedMessage", only=5)  # enough of an output to check it, in a fifth of the time
_MESSAGE_HEADER = _HEADER.pack(0, schema("Message").id)
_SEQUENCED_HEADER = _HEADER.pack(0, schema("SequencedMessage").id)


def decode(value: bytes) -> Datum:
    """The Message in a record's value; raises ValueError when it is none."""
    if value[:5] != _MESSAGE_HEADER:
        raise ValueError("not a Message in the Confluent wire format")
    stream = io.BytesIO(value)
    stream.seek(5)
    return cast("Datum", fastavro.schemaless_reader(stream, _MESSAGE, None))


def encode(message: Datum, sequence: int, partition: int, now: int) -> bytes:
    """The value of the output: the message with its sequence in the conversation; `now` is Unix milliseconds."""
    out = io.BytesIO()
    out.write(_SEQUENCED_HEADER)
    fastavro.schemaless_writer(
        out,
        _SEQUENCED,
        {
            "tenant_id": message["tenant_id"],
            "message_id": message["message_id"],
            "conversation_id": message["conversation_id"],
            "home_partition": partition,
            "seq": sequence,
            "direction": message["direction"],
            "sender": message["sender"],
            "kind": message["kind"],
            "text": message["text"],
            "requested_at": message["requested_at"],
            "accepted_at": now,
            "metadata": message["metadata"],
            "deliveries": [],
        },
    )
    return out.getvalue()


def place(value: bytes) -> tuple[str, str, int]:
    """(conversation, message id, sequence) of an output's value; raises ValueError when it is none."""
    if value[:5] != _SEQUENCED_HEADER:
        raise ValueError("not a SequencedMessage in the Confluent wire format")
    stream = io.BytesIO(value)
    stream.seek(5)
    datum = cast("Datum", fastavro.schemaless_reader(stream, _PLACE, None))
    return datum["conversation_id"], datum["message_id"], datum["seq"]


def message_number(message_id: str) -> int:
    """The number of a message: from 0, in the order in which messages are first produced."""
    return int(message_id[2:])


def records(count: int) -> Iterator[tuple[bytes, bytes]]:
    """The first `count` source records, as (key, value); the same in every run. A smaller count gives the beginning of a larger one."""
    chance = random.Random(7)  # noqa: S311  # made-up data, the same in every run
    window: list[tuple[bytes, bytes]] = []
    number = 0
    for _ in range(count):
        if window and chance.random() < DUPLICATES:
            yield chance.choice(window)
            continue
        record = _record(number, chance.randrange(CONVERSATIONS))
        if len(window) < WINDOW:
            window.append(record)
        else:
            window[number % WINDOW] = record
        number += 1
        yield record


def _record(number: int, conversation: int) -> tuple[bytes, bytes]:
    out = io.BytesIO()
    out.write(_MESSAGE_HEADER)
    key = f"c-{conversation:07d}"
    fastavro.schemaless_writer(
        out,
        _MESSAGE,
        {
            "tenant_id": "default",
            "message_id": f"m-{number:09d}",
            "conversation_id": key,
            "direction": "OUTBOUND",
            "sender": "",
            "recipients": [],  # the members of the conversation
            "kind": "text",
            "text": _TEXT,
            "not_before": None,
            "expires_at": None,
            "requested_at": STARTED_AT + number,
            "metadata": {},
        },
    )
    return key.encode(), out.getvalue()
