"""Table `outstanding` of stage send: every delivery that has not ended. Key: delivery id.

The row, not the topic, is the truth about outstanding work: it is written when the delivery is taken from Kafka, changed when a
call starts (the intent) and when its result is known, and removed when the delivery has ended.
"""

from dataclasses import dataclass
from enum import StrEnum

from schemas.records import Delivery
from tables.framed_layout import FramedLayout


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


OUTSTANDING = FramedLayout("outstanding", Outstanding, framed="delivery", version=2)
