"""How a simulated provider misbehaves: knobs set by flags and at run time, and the dice that draw what becomes of each call.

What enters: the knobs, a seed, a recipient. What leaves: a Draw per call: its fate and the receipts that follow. Guaranteed: the n-th
call for a recipient meets the same fate under the same seed and knobs, whatever other calls come between. Durations are milliseconds
unless the name says otherwise.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from simulators.knobs import Knobs, amount, rate

_T = TypeVar("_T")
_MASK = (1 << 64) - 1
_COUNTED = 200_000  # recipients whose calls are counted; beyond them the count of the oldest starts anew


class Fate(StrEnum):
    """What becomes of a well-formed call. A person gets the message under ACCEPTED, HUNG and LOST, and no other."""

    ACCEPTED = "accepted"
    HUNG = "hung"  # taken, receipts follow, no answer ever
    LOST = "lost"  # taken, receipts follow, but the answer is a 502
    THROTTLED = "throttled"
    REJECTED = "rejected"
    ERROR = "error"  # not taken, an HTML 502
    FAULT = "fault"  # not taken, the provider's own 500

    @property
    def taken(self) -> bool:
        return self in (Fate.ACCEPTED, Fate.HUNG, Fate.LOST)


@dataclass(frozen=True, slots=True)
class Misbehaviour(Knobs):
    """All knobs. Names are those of the flags and of POST /_control/faults."""

    latency_ms: float = amount("time a call takes, milliseconds", 20.0)
    latency_spread_ms: float = amount("further time a call takes, at most, milliseconds", 0.0)
    receipt_delay_ms: float = amount("mean time between two receipts of a message, milliseconds", 50.0)
    double: float = rate("share of messages with one receipt sent twice")
    early: float = rate("share of messages whose first receipt (Instagram: echo) is sent before the call is answered")
    shuffle: float = rate("share of messages whose receipts are sent out of order")
    read_without_delivered: float = rate("share of messages that get `read` and never `delivered`")
    unread_rate: float = rate("share of messages that are never read")
    receipt_loss: float = rate("share of receipts that are never sent")
    fail_rate: float = rate("share of accepted messages that fail later, by receipt (WhatsApp)")
    fail_code: float = amount("error code of those failures (WhatsApp); 0 draws one", 131026.0, 1_000_000.0)
    reject_rate: float = rate("share of calls that are refused for good")
    throttle_rate: float = rate("share of calls answered 429")
    hang_rate: float = rate("share of calls that are taken and never answered")
    error_rate: float = rate("share of calls answered with an HTML 502 and not taken")
    fault_rate: float = rate("share of calls answered with the provider's own 500 and not taken")
    lost_answer_rate: float = rate("share of calls answered with an HTML 502 although taken")
    reply_rate: float = rate("share of messages a person replies to (Telegram)")
    reaction_rate: float = rate("share of messages a person reacts to (Telegram)")
    sync_window_rate: float = rate("share of texts outside the window refused at once instead of by receipt (WhatsApp)")
    hidden_error_rate: float = rate("share of refusals that come as an error inside HTTP 200 (Instagram)")
    localised_rate: float = rate("share of refusals whose message is not in English (Instagram)")
    plain_rate: float = rate("share of webhooks in the older shape, without contacts and user ids (WhatsApp)", 0.5)
    bare_read_rate: float = rate("share of reads that name neither sender nor recipient (Instagram)", 0.5)
    batch: float = amount("notices a webhook carries at most (WhatsApp, Instagram); at least 1", 100.0, 1000.0)
    retry_after_seconds: float = amount("wait a 429 asks for, whole seconds", 1.0)
    hang_seconds: float = amount("how long a hung call is held before its connection is cut, seconds", 60.0)


@dataclass(frozen=True, slots=True)
class ReceiptPlan:
    """Receipts of one accepted message as (status, delay in milliseconds after the answer); `early` comes before the answer."""

    early: str | None
    later: tuple[tuple[str, float], ...]
    lost: tuple[str, ...] = ()


class Draw:
    """The luck of one call: SplitMix64, because making a random.Random for every call would cost more than the call."""

    __slots__ = ("_state",)

    def __init__(self, key: int) -> None:
        self._state = key

    def number(self) -> float:
        """Uniform from 0 up to 1."""
        self._state = state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((state ^ (state >> 31)) >> 11) / (1 << 53)

    def happens(self, rate: float) -> bool:
        return rate > 0 and self.number() < rate

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.number()

    def one_of(self, choices: Sequence[_T]) -> _T:
        return choices[int(self.number() * len(choices))]

    def fate(self, misbehaviour: Misbehaviour) -> Fate:
        rates = (
            (Fate.THROTTLED, misbehaviour.throttle_rate),
            (Fate.ERROR, misbehaviour.error_rate),
            (Fate.FAULT, misbehaviour.fault_rate),
            (Fate.REJECTED, misbehaviour.reject_rate),
            (Fate.HUNG, misbehaviour.hang_rate),
            (Fate.LOST, misbehaviour.lost_answer_rate),
        )
        for fate, share in rates:
            if share and self.happens(share):
                return fate
        return Fate.ACCEPTED

    def latency(self, misbehaviour: Misbehaviour) -> float:
        """Milliseconds this call takes."""
        return misbehaviour.latency_ms + (
            self.number() * misbehaviour.latency_spread_ms if misbehaviour.latency_spread_ms else 0.0
        )

    def statuses(self, misbehaviour: Misbehaviour) -> list[str]:
        """What WhatsApp tells of a message, in order."""
        if self.happens(misbehaviour.fail_rate):
            return ["sent", "failed"]
        if self.happens(misbehaviour.unread_rate):
            return ["sent", "delivered"]
        if self.happens(misbehaviour.read_without_delivered):
            return ["sent", "read"]
        return ["sent", "delivered", "read"]

    def plan(self, misbehaviour: Misbehaviour, statuses: Sequence[str]) -> ReceiptPlan:
        """When which of these receipts is sent."""
        kept = list(statuses)
        early = kept.pop(0) if kept and self.happens(misbehaviour.early) else None
        delays: list[float] = []
        for _ in kept:
            delays.append((delays[-1] if delays else 0.0) + misbehaviour.receipt_delay_ms * self.between(0.5, 1.5))
        if self.happens(misbehaviour.shuffle):
            self._shuffle(delays)
        later = list(zip(kept, delays, strict=True))
        if statuses and self.happens(misbehaviour.double):
            later.append((self.one_of(statuses), self.between(0.0, 4.0) * misbehaviour.receipt_delay_ms))
        if not misbehaviour.receipt_loss:
            return ReceiptPlan(early, tuple(later))
        lost = [self.happens(misbehaviour.receipt_loss) for _ in later]
        return ReceiptPlan(
            early,
            tuple(each for each, is_lost in zip(later, lost, strict=True) if not is_lost),
            tuple(each[0] for each, is_lost in zip(later, lost, strict=True) if is_lost),
        )

    def _shuffle(self, values: list[float]) -> None:
        for last in range(len(values) - 1, 0, -1):
            other = int(self.number() * (last + 1))
            values[last], values[other] = values[other], values[last]


class Dice:
    """One seed's draws."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._calls: dict[str, int] = {}

    def draw(self, recipient: str) -> Draw:
        """The luck of the next call for a recipient."""
        count = self._calls.get(recipient, 0)
        if not count and len(self._calls) >= _COUNTED:
            del self._calls[next(iter(self._calls))]
        self._calls[recipient] = count + 1
        key = f"{self._seed}:{recipient}:{count}".encode()
        return Draw(zlib.crc32(key) << 32 | zlib.crc32(key[::-1]))
