"""Table `outstanding` of stage send: every delivery that has not ended. Key: delivery id.

The row, not the topic, decides what is still to be sent. It is written when the delivery is taken from Kafka, changed before a call starts
(the intent) and when its result is known, and deleted when the delivery has ended.
"""

from dataclasses import dataclass
from enum import StrEnum

from schemas.records import Delivery
from tables.framed_layout import FramedLayout


class Phase(StrEnum):
    WAITING = "waiting"  # until it is the head of its lane, and until `not_before`
    # the intent: a call may have started; if a restart finds it, the outcome of the call is unknown
    CALLING = "calling"
    HELD = "held"  # the outcome is unknown; waits for evidence, at most until `not_before`


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A delivery and the state of its attempts."""

    delivery: Delivery
    source: tuple[str, int, int]  # of the delivery's record: topic, offset, timestamp in Unix milliseconds
    phase: Phase = Phase.WAITING
    attempt: int = 0  # number of the latest attempt, from 1; 0: none has started
    failures: int = 0  # number of attempts that failed and were not only throttled
    resends: int = 0  # number of attempts that repeated one with an unknown outcome
    not_before: int = 0  # Unix milliseconds; 0: nothing to wait for
    dispatched_at: int | None = None  # when the latest attempt's call started, Unix milliseconds
    evidence: str | None = None  # the provider's message id, from a receipt that came before the answer to the call
    part: int = 0  # index of the part to send or being sent, from 0; the provider accepted the parts before it
    part_since: int = 0  # number of the last attempt of the part before; receipts of it and of earlier ones say nothing about this part
    size: int = 0  # bytes of the delivery's record
    ready_at: int | None = (
        None  # when it was the head of its lane, noted by the first attempt; None: not known, or no attempt yet
    )

    @property
    def is_scheduled(self) -> bool:
        """Whether it waits for its own `not_before`, outside its lane: no attempt has started, and `not_before` is not reset to 0 yet."""
        return self.attempt == 0 and self.not_before > 0


OUTSTANDING = FramedLayout("outstanding", Outstanding, framed="delivery", version=2)
