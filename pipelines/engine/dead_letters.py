"""A refused record as a dead letter: the original value, key and headers, with the cause and the position.

Enters: a refusal of any record that a topic or a webhook may hold. Leaves: a record that always fits its topic. A value or key that is too
large is cut to its first bytes, with its length and its SHA-256 digest; headers beyond a number are only counted. Everything else is kept
byte for byte.
"""

import re
from collections.abc import Iterable
from hashlib import sha256

from pipelines.engine.stage import Headers, Output, Record, Refusal
from schemas import codec
from schemas.records import DeadLetter, Header

TOPIC = "dead-letters"
VALUE_BYTES, VALUE_START = 2 << 20, 64 << 10  # kept whole up to the first, else cut to the second
KEY_BYTES, KEY_START = 64 << 10, 1 << 10  # twice in a letter: in it, and as its own key
HEADERS = 64
HEADER_NAME = 256  # characters
HEADER_BYTES = 4 << 10
DETAIL = 1_000  # characters
DEFAULT_TENANT = "default"
_TENANT = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def lost_records(source: tuple[str, int], first: int, end: int) -> Refusal:
    """A refusal without content for the offsets `first` up to `end`, which Kafka deleted before they were read, so that the loss is
    recorded."""
    record = Record(*source, first, 0, None, None, ())
    detail = f"offsets {first} to {end - 1} of {source[0]} {source[1]}: this stage was stopped for longer than the topic's retention"
    return Refusal(record, "deleted_before_read", detail)


def dead_letters(stage: str, refusals: Iterable[Refusal], now: int) -> list[Output]:
    """The dead letters of a turn. A dead letter that a stage cannot take is no new dead letter, or that one would follow it for ever: it
    stays in its topic, and the log and the metrics have it."""
    return [
        dead_letter(each.stage or stage, each, now)
        for each in refusals
        if each.record.topic != TOPIC or each.record.value is None
    ]


def dead_letter(stage: str, refusal: Refusal, now: int) -> Output:
    """The dead letter to produce. Its id is made of the record's position, or of its content where there is no position, so that a
    repetition has the same id. `now` is Unix milliseconds."""
    record = refusal.record
    key, key_length, key_sha256 = _cut(record.key, KEY_BYTES, KEY_START)
    value, value_length, value_sha256 = _cut(record.value, VALUE_BYTES, VALUE_START)
    headers, headers_cut = _headers(record.headers)
    letter = DeadLetter(
        tenant_id=refusal.tenant_id if _TENANT.fullmatch(refusal.tenant_id) else DEFAULT_TENANT,
        dead_letter_id=f"{stage}:{record.topic}:{_place(record)}",
        stage=stage,
        cause=refusal.cause,
        detail=_encodable(refusal.detail[:DETAIL]),
        source_topic=record.topic,
        source_partition=record.partition,
        source_offset=record.offset,
        source_timestamp=record.timestamp,
        key=key,
        value=value,
        headers=headers,
        refused_at=now,
        key_length=key_length,
        key_sha256=key_sha256,
        value_length=value_length,
        value_sha256=value_sha256,
        headers_cut=headers_cut,
        headers_left_out=len(record.headers) - len(headers),
    )
    return Output(TOPIC, key or b"", codec.encode(letter), None)


def _place(record: Record) -> str:
    if record.offset >= 0:
        return f"{record.partition}:{record.offset}"
    return sha256(sha256(record.key or b"").digest() + (record.value or b"")).hexdigest()


def _cut(whole: bytes | None, limit: int, start: int) -> tuple[bytes | None, int | None, str | None]:
    """The bytes as they are, or their first bytes with the length and the digest of the whole."""
    if whole is None or len(whole) <= limit:
        return whole, None, None
    return whole[:start], len(whole), sha256(whole).hexdigest()


def _headers(headers: Headers) -> tuple[tuple[Header, ...], int]:
    """The first headers, and how many of them are cut."""
    kept, cut = [], 0
    for name, value in headers[:HEADERS]:
        data = value.encode(errors="replace") if isinstance(value, str) else value
        cut += len(name) > HEADER_NAME or (data is not None and len(data) > HEADER_BYTES)
        kept.append(Header(key=_encodable(name[:HEADER_NAME]), value=data if data is None else data[:HEADER_BYTES]))
    return tuple(kept), cut


def _encodable(text: str) -> str:
    """The text with `?` in place of lone surrogates, which UTF-8 cannot encode."""
    return text.encode(errors="replace").decode()
