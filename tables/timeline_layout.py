"""The layout of `timelines`: nearly every row has 150 to 300 bytes, on the changelog, on disk and in memory.

Packed form: a head of numbers with one bit for each field that is present; times as milliseconds from the time of acceptance; digests of
events; sizes of texts, then the texts. Rows that do not fit into it have the JSON form: JSON with field names, a line feed, then the
waiting updates as Avro bytes (tables/framed_layout.py). These are rows with waiting updates, with a time more than 24 days from the
acceptance, with a text of more than 255 bytes, or with the numbers of a delivery that was tried for weeks.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any, Final

from schemas.keys import DEFAULT_TENANT
from schemas.records import Status, StatusUpdate
from tables.framed_layout import FramedLayout
from tables.layout import frozen
from tables.timelines import Timeline

PACKED: Final = 2  # the first byte of a packed row; the JSON form begins with a brace
_UNNUMBERED: Final = 1  # the first byte of a row that was packed before deliveries had a number
# PACKED, bits, version, attempts, resends, number of events, sequence, accepted_at, number among the member's deliveries
_HEAD = struct.Struct("<BIHBBBIqI")
_UNNUMBERED_HEAD = struct.Struct("<BIHBBBIq")
# Bits of the head: which fields are present, and what they are. A bit never gets another meaning. Free: 29 and 30. Keep 31 for "another word
# of bits follows".
# Times, and numbers of the same size.
_DISPATCHED, _SENT, _DELIVERED, _READ, _FAILED, _REASONED = (1 << n for n in range(6))
_COVERED_DELIVERED, _COVERED_READ, _STALLED = 1 << 6, 1 << 7, 1 << 24
_SCHEDULED, _READY, _THROTTLED = 1 << 25, 1 << 26, 1 << 27
_RETRIED = 1 << 28  # with the time of the first attempt; without it, the latest attempt is the first
# Texts.
_TENANT, _CHANNEL, _RECIPIENT, _KIND, _PROVIDER_ID, _CODE, _REASON, _FALLBACK = (1 << n for n in range(8, 16))
_TIMES, _TEXTS = 0x1F00_00FF, 0xFF00
_CHANNELS: Mapping[str, int] = {
    name: n << 16 for n, name in enumerate(("whatsapp", "telegram", "instagram", "internal"), 1)
}
_FAILURES: Mapping[str | None, int] = {
    None: 0,
    **{str(s): n << 20 for n, s in enumerate((Status.FAILED, Status.EXPIRED, Status.CANCELLED, Status.SUPPRESSED), 1)},
}
_CHANNEL_OF = {bits: name for name, bits in _CHANNELS.items()}
_FAILURE_OF = {bits: name for name, bits in _FAILURES.items()}


@dataclass(frozen=True, slots=True)
class _JsonForm:
    fields: Mapping[str, Any]  # those of a Timeline, without `early`
    early: tuple[StatusUpdate, ...]


_JSON_FORM = FramedLayout("timelines", _JsonForm, framed="early")


class TimelinesLayout:
    """Version 3: packed rows. It cannot read rows of older versions. `decode` raises what the forms raise for other bytes."""

    name = "timelines"
    version = 3
    packed = False
    bucketed = True
    keyed_by_record = False
    time_of: Callable[[Timeline], int | None] = attrgetter("updated_at")

    def encode(self, row: Timeline) -> bytes:
        if row.known and not (row.early or row.places):
            try:
                return _packed(row)
            except (struct.error, ValueError, KeyError):
                pass  # it does not fit
        return _JSON_FORM.encode(_JsonForm({k: v for k, v in row._asdict().items() if k != "early"}, row.early))

    def decode(self, value: bytes) -> Timeline:
        if value[0] in (PACKED, _UNNUMBERED):
            return _unpacked(value)
        found = _JSON_FORM.decode(value)
        fields: dict[str, Any] = {
            k: frozen(v) if type(v) is list else v for k, v in found.fields.items() if k in Timeline._fields
        }
        # of releases that did not note the first attempt: the earliest that the row knows
        fields.setdefault("first_dispatched_at", fields.get("dispatched_at"))
        return Timeline(**fields, early=found.early)

    def as_json(self, row: Timeline) -> Any:
        shown = row._asdict() | {"events": [f"{event:016x}" for event in row.events]}
        return shown | {"early": _JSON_FORM.as_json(_JsonForm({}, row.early))["early"]}


TIMELINES = TimelinesLayout()


@cache
def _numbers(times: int, events: int) -> struct.Struct:
    return struct.Struct(f"<{times}i{events}Q")


def _packed(row: Timeline) -> bytes:
    """Raises struct.error, ValueError or KeyError for a row that does not fit."""
    at = row.accepted_at
    bits = _FAILURES[row.failure]
    times = [row.requested_at - at, row.updated_at - at]
    for bit, time in (
        (_DISPATCHED, row.dispatched_at),
        (_SENT, row.sent_at),
        (_DELIVERED, row.delivered_at),
        (_READ, row.read_at),
        (_FAILED, row.failed_at),
        (_REASONED, row.reason_at or None),
        (_COVERED_DELIVERED, row.covered_delivered_at),
        (_COVERED_READ, row.covered_read_at),
        (_STALLED, row.stalled_at),
        (_SCHEDULED, row.not_before),
        (_READY, row.ready_at),
        (_RETRIED, _first_of_several(row)),
    ):
        if time is not None:
            bits |= bit
            times.append(time - at)
    if row.throttles:
        bits |= _THROTTLED
        times.append(row.throttles)
    texts = [row.conversation_id, row.message_id, row.account, row.address]
    channel = _CHANNELS.get(row.channel, 0)
    bits |= channel
    for bit, text, usual in (
        (_TENANT, row.tenant_id, DEFAULT_TENANT),
        (_CHANNEL, row.channel, row.channel if channel else None),
        (_RECIPIENT, row.recipient, row.address),
        (_KIND, row.kind, "text"),
        (_PROVIDER_ID, row.provider_message_id, None),
        (_CODE, row.reason_code, None),
        (_REASON, row.reason, None),
        (_FALLBACK, row.fallback_of, None),
    ):
        if text is not None and text != usual:
            bits |= bit
            texts.append(text)
    coded = [text.encode() for text in texts]
    events = row.events
    return b"".join(
        (
            _HEAD.pack(PACKED, bits, row.version, row.attempts, row.resends, len(events), row.seq, at, row.number),
            _numbers(len(times), len(events)).pack(*times, *events),
            bytes(map(len, coded)),
            *coded,
        )
    )


def _first_of_several(row: Timeline) -> int | None:
    """The time of the first attempt if it is not that of the latest. Raises ValueError for a row with an attempt and without its time."""
    first = row.first_dispatched_at
    if first is None and row.dispatched_at is not None:
        raise ValueError("the first attempt has no time")
    return None if first == row.dispatched_at else first


def _unpacked(value: bytes) -> Timeline:
    if value[0] == PACKED:
        head = _HEAD.size
        _, bits, version, attempts, resends, events, seq, accepted, number = _HEAD.unpack_from(value)
    else:
        head, number = _UNNUMBERED_HEAD.size, 0
        _, bits, version, attempts, resends, events, seq, accepted = _UNNUMBERED_HEAD.unpack_from(value)
    numbers = _numbers(2 + (bits & _TIMES).bit_count(), events)
    found = numbers.unpack_from(value, head)
    times = iter(found)
    requested, updated = accepted + next(times), accepted + next(times)
    dispatched, sent, delivered, read, failed = (
        accepted + next(times) if bits & bit else None for bit in (_DISPATCHED, _SENT, _DELIVERED, _READ, _FAILED)
    )
    reasoned = accepted + next(times) if bits & _REASONED else 0
    covered_delivered, covered_read, stalled, scheduled, ready, first = (
        accepted + next(times) if bits & bit else None
        for bit in (_COVERED_DELIVERED, _COVERED_READ, _STALLED, _SCHEDULED, _READY, _RETRIED)
    )
    throttles = next(times) if bits & _THROTTLED else 0
    texts = iter(_texts(value, head + numbers.size, 4 + (bits & _TEXTS).bit_count()))
    conversation, message, account, address = next(texts), next(texts), next(texts), next(texts)
    tenant = next(texts) if bits & _TENANT else DEFAULT_TENANT
    channel = next(texts) if bits & _CHANNEL else _CHANNEL_OF[bits & 0xF0000]
    recipient = next(texts) if bits & _RECIPIENT else address
    kind = next(texts) if bits & _KIND else "text"
    provider_id, code, reason, fallback_of = (
        next(texts) if bits & bit else None for bit in (_PROVIDER_ID, _CODE, _REASON, _FALLBACK)
    )
    return Timeline(
        tenant, conversation, True, message, seq, channel, account, recipient, address, kind, requested, accepted, version,
        dispatched, sent, delivered, read, failed, _FAILURE_OF[bits & 0xF00000], attempts, resends, provider_id, code, reason,
        reasoned, tuple(times), updated, number=number, covered_delivered_at=covered_delivered, covered_read_at=covered_read,
        stalled_at=stalled, not_before=scheduled, ready_at=ready, first_dispatched_at=dispatched if first is None else first,
        throttles=throttles, fallback_of=fallback_of,
    )  # fmt: skip  # the fields in their order; one a line would be 27 lines


def _texts(value: bytes, start: int, number: int) -> list[str]:
    sizes = value[start : start + number]
    start += number
    whole = value[start:].decode()
    if len(whole) < len(value) - start:  # some characters have several bytes: decode each text by itself
        ends = [sum(sizes[: n + 1]) for n in range(number)]
        return [value[start + end - size : start + end].decode() for size, end in zip(sizes, ends, strict=True)]
    found = []
    at = 0
    for size in sizes:
        found.append(whole[at : at + size])
        at += size
    return found
