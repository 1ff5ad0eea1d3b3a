"""Table `outstanding` of stage send: every delivery that has not ended. Key: delivery id.

The row, not the topic, is the truth about outstanding work: it is written when the delivery is taken from Kafka, changed when a
call starts (the intent) and when its result is known, and removed when the delivery has ended.
"""

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from schemas import content
from schemas.records import Delivery


class Phase(StrEnum):
    WAITING = "waiting"  # for its turn in the lane, or for `not_before`
    CALLING = "calling"  # an intent: a call was started; found after a restart, its outcome is unknown
    HELD = "held"  # the outcome is unknown; waits for evidence until `not_before`


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A delivery and how far it is."""

    delivery: Delivery
    source: tuple[str, int, int]  # topic, offset and timestamp of the delivery's record
    phase: Phase = Phase.WAITING
    attempt: int = 0  # the latest one started
    failures: int = 0  # attempts that failed and were not mere throttling
    resends: int = 0  # attempts repeated after an unknown outcome
    not_before: int = 0  # Unix milliseconds; 0 for nothing to wait for
    dispatched_at: int | None = None  # Unix milliseconds, of the latest attempt
    evidence: str | None = None  # provider id from a receipt that came before the answer
    part: int = 0  # the part to send, or being sent; those before it were taken
    part_since: int = 0  # the latest attempt of the part before it; receipts of that one and earlier prove nothing
    size: int = 0  # bytes of the delivery's record

    @property
    def is_scheduled(self) -> bool:
        """Whether it waits for its own time, outside of its lane: never called, and `not_before` not taken away yet."""
        return self.attempt == 0 and self.not_before > 0


# What an older or newer version of a row may lack or have more is left out, as in JsonLayout.
_FIELDS = frozenset(field.name for field in dataclasses.fields(Outstanding))
_DELIVERY_FIELDS = frozenset(field.name for field in dataclasses.fields(Delivery))


class OutstandingLayout:
    """JSON, with the delivery as an object inside."""

    name = "outstanding"
    version = 1
    packed = False
    keyed_by_record = False
    time_of = None  # a row lives until its delivery ends

    def encode(self, row: Outstanding) -> bytes:
        return orjson.dumps(row)

    def decode(self, value: bytes) -> Outstanding:
        fields = orjson.loads(value)
        delivery = {k: v for k, v in fields["delivery"].items() if k in _DELIVERY_FIELDS}
        if delivery.get("content") is not None:
            delivery["content"] = content.from_json(delivery["content"])
        fields["delivery"] = Delivery(**delivery)
        fields["source"] = tuple(fields["source"])
        fields["phase"] = Phase(fields["phase"])
        return Outstanding(**{name: value for name, value in fields.items() if name in _FIELDS})

    def as_json(self, row: Outstanding) -> Any:
        return orjson.loads(self.encode(row))


OUTSTANDING = OutstandingLayout()
