"""How long each field of a record may be, and which characters and numbers it may hold: declared once, as data.

The codec refuses every record with a field out of its limits (schemas/limit_check.py). The numbers are chosen together, so that a record
within them can be written everywhere: to Kafka and to a table row below 1 MB, to PostgreSQL and to ClickHouse. Dead letters have no limits
here, because they hold refused records. docs/limits.md has the table.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

UNLIMITED = ("DeadLetter", "Header")  # classes without limits


@dataclass(frozen=True, slots=True)
class Text:
    """A text of `least` to `most` bytes of UTF-8. Without `any_character` it has no control characters. `pattern`, if given, is the regular
    expression that the whole text has to match."""

    most: int
    least: int = 0
    any_character: bool = False
    pattern: str | None = None
    letters: str = ""  # the pattern in words


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from `least` to `most`, both included."""

    least: int
    most: int
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Real:
    """Any finite number."""


@dataclass(frozen=True, slots=True)
class Many:
    """A list of at most `most` items. If the items are texts, `each` limits every one, and `together` the bytes of all of them."""

    most: int
    each: Text | None = None
    together: int | None = None


@dataclass(frozen=True, slots=True)
class Labels:
    """A map of at most `most` names and values, all texts."""

    most: int
    key: Text
    value: Text


Limit = Text | Whole | Real | Many | Labels


def _id(most: int) -> Text:
    return Text(most, least=1)


MOST_MEDIA = 30  # in an album; no channel accepts more
WORD = Text(64)
ADDRESS = Text(256)
ACCOUNT = Text(128)
PROVIDER_ID = Text(512)
SENTENCE = Text(1000, any_character=True)
PARAMETERS = Many(64, Text(32_768, any_character=True), together=32_768)  # WhatsApp's limit for the body of a template
TIME = Whole(0, 253_402_300_799_999, "Unix milliseconds of the years 1970 to 9999")
ANY_TIME = Whole(-(2**63), 2**63 - 1)  # stage route checks which times are valid, and its error says more
COUNT = Whole(0, 2**31 - 1)

# Field -> limit. A name has one limit in all records; where a record differs, the key is `Record.field`. The numbers are
# chosen together: the largest delivery has about 300 kB, the largest row less than 1 MB (tests/unit/test_limits.py).
LIMITS: Mapping[str, Limit] = MappingProxyType(
    {
        # ids and numbers
        "tenant_id": Text(64, 1, pattern=r"[A-Za-z0-9_.-]+", letters="letters, digits, point, dash, underscore"),
        "message_id": _id(128),
        "conversation_id": _id(256),
        "delivery_id": _id(128),
        "event_id": _id(1024),
        "home_partition": Whole(-(2**31), 2**31 - 1),  # the stages check whether there is such a partition
        "seq": Whole(0, 2**53),
        "version": COUNT,
        "last_delivered_seq": Whole(0, 2**53),
        "last_read_seq": Whole(0, 2**53),
        "newest_seq": Whole(0, 2**53),
        "delivered_up_to": Whole(0, 2**53),
        "read_up_to": Whole(0, 2**53),
        "confirmation_id": _id(128),
        "erasure_id": _id(128),
        "Erasure.conversation_id": Text(256),
        "delivery_ids": Many(500, _id(128)),
        "provider_message_ids": Many(500, _id(512)),
        "fallback_of": _id(128),
        "throttles": COUNT,
        "attempt": COUNT,
        "attempts": COUNT,
        "resends": COUNT,
        # people and addresses
        "sender": ADDRESS,
        "recipient": ADDRESS,
        "user_id": ADDRESS,
        "address": ADDRESS,
        "account": ACCOUNT,
        "channel": WORD,
        "time_zone": WORD,
        "recipients": Many(5000),
        "deliveries": Many(5000),
        "member": ADDRESS,
        "person": ADDRESS,
        "members": Many(5000, ADDRESS, together=400_000),
        "addresses": Many(32),
        "opt_outs": Many(32, WORD),
        # content
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
        # results
        "provider_message_id": PROVIDER_ID,
        "Binding.provider_message_id": _id(512),
        "Receipt.provider_message_id": _id(512),
        "InboundMessage.provider_message_id": _id(512),
        "InboundMessage.address": Text(256, least=1),
        "Preference.address": Text(256, least=1),
        "Suppression.address": Text(256, least=1),
        "Preference.reason": WORD,
        "Suppression.reason": WORD,
        "callback_data": Text(2048, any_character=True),  # 512 characters; perhaps from another program
        "error_code": WORD,
        "error_title": SENTENCE,
        "reason_code": WORD,
        "reason": SENTENCE,
        "anomaly": WORD,
        "reported": WORD,
        # times
        "not_before": ANY_TIME,
        "expires_at": ANY_TIME,
        **dict.fromkeys(
            (
                "requested_at", "accepted_at", "bound_at", "provider_at", "received_at", "occurred_at", "observed_at",
                "dispatched_at", "sent_at", "delivered_at", "read_at", "failed_at", "updated_at", "changed_at",
                "opened_at", "closes_at", "stalled_at", "ready_at", "retry_at", "first_dispatched_at",
            ),
            TIME,
        ),
    }
)  # fmt: skip  # names of one kind on as few lines as they need


def limit_of(record: str, field: str) -> Limit | None:
    """The limit of a field of a record class, both by name. None if the type alone limits it: an enum, a boolean, another record."""
    return LIMITS.get(f"{record}.{field}") or LIMITS.get(field)


def described(limit: Limit) -> str:
    """The limit in words, for errors and docs."""
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
            all_of = "" if limit.together is None else f", all together at most {limit.together} bytes"
            return f"at most {limit.most} items{of}{all_of}"
        case Labels():
            return f"at most {limit.most} labels; names {described(limit.key)}; values {described(limit.value)}"


def record_in(hint: Any) -> type[Any] | None:
    """The record class X in a type hint `X | None` or `tuple[X, ...]`; None if there is none."""
    if typing.get_origin(hint) not in (tuple, types.UnionType):
        return None
    first: type[Any] = typing.get_args(hint)[0]
    return first if dataclasses.is_dataclass(first) else None
