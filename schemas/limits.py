"""How long each field of a record may be, and which characters it may have: declared here, once, as data.

The codec refuses every record that has a field out of its limits (schemas/limit_check.py). The numbers are chosen together, so that what
passes can be written anywhere we write it: a Kafka record and a table's row below 1 MB, PostgreSQL, ClickHouse. Dead letters have no
limits here: they hold what had to be refused. docs/limits.md shows the table.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

UNLIMITED = ("DeadLetter", "Header")


@dataclass(frozen=True, slots=True)
class Text:
    """Bytes of UTF-8. An id or a word has no control characters; `pattern`, where given, says it all."""

    most: int
    least: int = 0
    any_character: bool = False
    pattern: str | None = None
    letters: str = ""  # the pattern in words


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number, both ends allowed."""

    least: int
    most: int
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Real:
    """Any finite number."""


@dataclass(frozen=True, slots=True)
class Many:
    """A list; `each` limits its items where these are texts, and `together` the bytes of all of them."""

    most: int
    each: Text | None = None
    together: int | None = None


@dataclass(frozen=True, slots=True)
class Labels:
    """Names with values."""

    most: int
    key: Text
    value: Text


Limit = Text | Whole | Real | Many | Labels


def _id(most: int) -> Text:
    return Text(most, least=1)


MOST_MEDIA = 30  # of an album; no channel takes more
WORD = Text(64)
ADDRESS = Text(256)
ACCOUNT = Text(128)
PROVIDER_ID = Text(512)
SENTENCE = Text(1000, any_character=True)
PARAMETERS = Many(64, Text(32_768, any_character=True), together=32_768)  # WhatsApp's own bound of a template's body
TIME = Whole(0, 253_402_300_799_999, "Unix milliseconds of the years 1970 to 9999")
ANY_TIME = Whole(-(2**63), 2**63 - 1)  # which of them make sense, stage route says with a better sentence
COUNT = Whole(0, 2**31 - 1)

# Field -> limit; a name means the same in every record, and where it does not, `Record.field` stands before it. Numbers of the fields
# are chosen together: the largest delivery has about 300 kB, the largest row less than 1 MB (tests/unit/test_limits.py).
LIMITS: Mapping[str, Limit] = MappingProxyType(
    {
        # whose and which
        "tenant_id": Text(64, 1, pattern=r"[A-Za-z0-9_.-]+", letters="letters, digits, point, dash, underscore"),
        "message_id": _id(128),
        "conversation_id": _id(256),
        "delivery_id": _id(128),
        "event_id": _id(1024),
        "home_partition": Whole(-(2**31), 2**31 - 1),  # whether there is such a partition, the stages say
        "seq": Whole(0, 2**53),
        "version": COUNT,
        "attempt": COUNT,
        "attempts": COUNT,
        "resends": COUNT,
        # people and places
        "sender": ADDRESS,
        "recipient": ADDRESS,
        "user_id": ADDRESS,
        "address": ADDRESS,
        "account": ACCOUNT,
        "channel": WORD,
        "time_zone": WORD,
        "recipients": Many(5000),
        "deliveries": Many(5000),
        "members": Many(5000, ADDRESS, together=400_000),
        "addresses": Many(32),
        "opt_outs": Many(32, WORD),
        # what is said
        "kind": WORD,
        "text": Text(65_536, any_character=True),
        "metadata": Labels(32, Text(64), Text(1024, any_character=True)),
        "media": Many(MOST_MEDIA),
        "url": Text(2048),
        "provider_media_id": PROVIDER_ID,
        "mime_type": Text(256),
        "filename": SENTENCE,
        "size": Whole(-(2**63), 2**63 - 1),
        "latitude": Real(),
        "longitude": Real(),
        "Location.name": SENTENCE,
        "Location.address": SENTENCE,
        "Template.name": Text(512),
        "language": Text(35),
        "header": PARAMETERS,
        "body": PARAMETERS,
        "buttons": PARAMETERS,
        "reply_to": PROVIDER_ID,
        "reaction": Text(128, any_character=True),
        # what became of it
        "provider_message_id": PROVIDER_ID,
        "Binding.provider_message_id": _id(512),
        "Receipt.provider_message_id": _id(512),
        "callback_data": Text(2048, any_character=True),  # 512 characters, and not always ours
        "error_code": WORD,
        "error_title": SENTENCE,
        "reason_code": WORD,
        "reason": SENTENCE,
        "anomaly": WORD,
        # times
        "not_before": ANY_TIME,
        "expires_at": ANY_TIME,
        **dict.fromkeys(
            (
                "requested_at", "accepted_at", "bound_at", "provider_at", "received_at", "occurred_at", "observed_at",
                "dispatched_at", "sent_at", "delivered_at", "read_at", "failed_at", "updated_at",
            ),
            TIME,
        ),
    }
)  # fmt: skip


def limit_of(record: str, field: str) -> Limit | None:
    """The limit of a field; None where its type is limit enough: enums, booleans, one other record."""
    return LIMITS.get(f"{record}.{field}") or LIMITS.get(field)


def described(limit: Limit) -> str:
    """What is allowed, in words."""
    match limit:
        case Text():
            size = f"{limit.least} to {limit.most} bytes" if limit.least else f"at most {limit.most} bytes"
            kind = "of UTF-8" if limit.any_character else "of UTF-8 without control characters"
            return f"{size}, {limit.letters}" if limit.letters else f"{size} {kind}"
        case Whole(unit=""):
            return f"{limit.least} to {limit.most}"
        case Whole():
            return f"{limit.least} to {limit.most}, {limit.unit}"
        case Real():
            return "any finite number"
        case Many():
            of = "" if limit.each is None else f", each {described(limit.each)}"
            all_of = "" if limit.together is None else f", all of them at most {limit.together} bytes"
            return f"at most {limit.most} items{of}{all_of}"
        case Labels():
            return f"at most {limit.most} labels; names {described(limit.key)}; values {described(limit.value)}"


def record_in(hint: Any) -> type[Any] | None:
    """The record class in an `X | None` or a `tuple[X, ...]`; None where there is none."""
    if typing.get_origin(hint) not in (tuple, types.UnionType):
        return None
    first: type[Any] = typing.get_args(hint)[0]
    return first if dataclasses.is_dataclass(first) else None
