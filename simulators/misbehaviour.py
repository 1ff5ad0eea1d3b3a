"""How a simulated provider misbehaves: knobs set by flags and at run time, and random numbers that decide the outcome of each call.

What enters: the knobs, a seed, a recipient. What leaves: a CallRandom for each call, which draws its outcome and its receipts. Guaranteed:
with the same seed and knobs, the n-th call for a recipient has the same outcome, whatever other calls come between. Durations are
milliseconds unless the name says otherwise.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from simulators.knobs import Knobs, amount, rate

_T = TypeVar("_T")
_MASK = (1 << 64) - 1
_COUNTED = 200_000  # recipients whose calls are counted; above this number the count of the oldest restarts


class CallOutcome(StrEnum):
    """The outcome of a well-formed call. A person gets the message with ACCEPTED, HUNG and LOST only."""

    ACCEPTED = "accepted"
    HUNG = "hung"  # accepted, receipts follow, but no answer is sent
    LOST = "lost"  # accepted, receipts follow, but the answer is a 502
    THROTTLED = "throttled"
    REJECTED = "rejected"
    ERROR = "error"  # not accepted, an HTML 502
    FAULT = "fault"  # not accepted, the provider's own 500

    @property
    def taken(self) -> bool:
        return self in (CallOutcome.ACCEPTED, CallOutcome.HUNG, CallOutcome.LOST)


@dataclass(frozen=True, slots=True)
class Misbehaviour(Knobs):
    """All knobs. The flags and POST /_control/faults use the same names."""

    latency_ms: float = amount("duration of a call, milliseconds", 20.0)
    latency_spread_ms: float = amount("random extra duration of a call, at most, milliseconds", 0.0)
    receipt_delay_ms: float = amount("mean time between two receipts of a message, milliseconds", 50.0)
    double: float = rate("share of messages with one receipt sent twice")
    early: float = rate("share of messages whose first receipt (Instagram: echo) is sent before the call is answered")
    shuffle: float = rate("share of messages whose receipts are sent out of order")
    read_without_delivered: float = rate("share of messages that get `read` and never `delivered`")
    unread_rate: float = rate("share of messages that are never read")
    receipt_loss: float = rate("share of receipts that are never sent")
    fail_rate: float = rate("share of accepted messages whose receipts report a failure later (WhatsApp)")
    fail_code: float = amount("error code of those failures (WhatsApp); 0 chooses one at random", 131049.0, 1_000_000.0)
    reject_rate: float = rate("share of calls that are refused permanently")
    throttle_rate: float = rate("share of calls answered 429")
    hang_rate: float = rate("share of calls that are accepted and never answered")
    error_rate: float = rate("share of calls answered with an HTML 502 and not accepted")
    fault_rate: float = rate("share of calls answered with the provider's own 500 and not accepted")
    lost_answer_rate: float = rate("share of calls answered with an HTML 502 although accepted")
    reply_rate: float = rate("share of messages a person replies to (Telegram)")
    reaction_rate: float = rate("share of messages a person reacts to (Telegram)")
    sync_window_rate: float = rate("share of texts outside the window refused at once, not by a receipt (WhatsApp)")
    hidden_error_rate: float = rate("share of refusals that come as an error inside HTTP 200 (Instagram)")
    localised_rate: float = rate("share of refusals whose message is not in English (Instagram)")
    plain_rate: float = rate("share of webhooks in the older shape, without contacts and user ids (WhatsApp)", 0.5)
    bare_read_rate: float = rate("share of reads that name neither sender nor recipient (Instagram)", 0.5)
    batch: float = amount("notices a webhook carries at most (WhatsApp, Instagram); at least 1", 100.0, 1000.0)
    retry_after_seconds: float = amount("wait a 429 asks for, whole seconds", 1.0)
    hang_seconds: float = amount("time until the connection of a hung call is cut, seconds", 60.0)


@dataclass(frozen=True, slots=True)
class ReceiptPlan:
    """Receipts of one accepted message as (status, delay in milliseconds after the answer). `early` is sent before the answer."""

    early: str | None
    later: tuple[tuple[str, float], ...]
    lost: tuple[str, ...] = ()


class CallRandom:
    """The random numbers of one call. SplitMix64, because a random.Random for every call would cost more than the call."""

    __slots__ = ("_state",)

    def __init__(self, key: int) -> None:
        self._state = key

    def number(self) -> float:
        """Uniform, 0 <= number < 1."""
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

    def outcome(self, misbehaviour: Misbehaviour) -> CallOutcome:
        rates = (
            (CallOutcome.THROTTLED, misbehaviour.throttle_rate),
            (CallOutcome.ERROR, misbehaviour.error_rate),
            (CallOutcome.FAULT, misbehaviour.fault_rate),
            (CallOutcome.REJECTED, misbehaviour.reject_rate),
            (CallOutcome.HUNG, misbehaviour.hang_rate),
            (CallOutcome.LOST, misbehaviour.lost_answer_rate),
        )
        for outcome, share in rates:
            if share and self.happens(share):
                return outcome
        return CallOutcome.ACCEPTED

    def latency(self, misbehaviour: Misbehaviour) -> float:
        """Milliseconds this call takes."""
        return misbehaviour.latency_ms + (
            self.number() * misbehaviour.latency_spread_ms if misbehaviour.latency_spread_ms else 0.0
        )

    def statuses(self, misbehaviour: Misbehaviour) -> list[str]:
        """The statuses that WhatsApp reports for a message, in order."""
        if self.happens(misbehaviour.fail_rate):
            return ["sent", "failed"]
        if self.happens(misbehaviour.unread_rate):
            return ["sent", "delivered"]
        if self.happens(misbehaviour.read_without_delivered):
            return ["sent", "read"]
        return ["sent", "delivered", "read"]

    def plan(self, misbehaviour: Misbehaviour, statuses: Sequence[str]) -> ReceiptPlan:
        """When each of these receipts is sent."""
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


class RandomSource:
    """The random numbers of one seed, by recipient and number of the call."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._calls: dict[str, int] = {}

    def for_call(self, recipient: str) -> CallRandom:
        """The random numbers of the recipient's next call."""
        count = self._calls.get(recipient, 0)
        if not count and len(self._calls) >= _COUNTED:
            del self._calls[next(iter(self._calls))]
        self._calls[recipient] = count + 1
        key = f"{self._seed}:{recipient}:{count}".encode()
        return CallRandom(zlib.crc32(key) << 32 | zlib.crc32(key[::-1]))
