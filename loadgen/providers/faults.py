"""How a simulated provider misbehaves: knobs set by flags and at run time, and the dice that draw what becomes of each call.

What enters: the knobs and a seed. What leaves: a Fate per call and a plan of receipts per accepted message. Guaranteed: the same calls
in the same order under the same seed and knobs meet the same fates. Rates are shares from 0 to 1; durations are milliseconds unless
the name says otherwise.
"""

import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Fate(StrEnum):
    """What becomes of a well-formed call. A person gets the message under ACCEPTED, HUNG and LOST, and no other."""

    ACCEPTED = "accepted"
    HUNG = "hung"  # taken, receipts follow, no answer ever
    LOST = "lost"  # taken, receipts follow, but the answer is a 502
    THROTTLED = "throttled"
    REJECTED = "rejected"
    ERROR = "error"  # not taken, a 502

    @property
    def taken(self) -> bool:
        return self in (Fate.ACCEPTED, Fate.HUNG, Fate.LOST)


def _rate(about: str, default: float = 0.0) -> float:
    return field(default=default, metadata={"about": about, "most": 1.0})


def _amount(about: str, default: float) -> float:
    return field(default=default, metadata={"about": about, "most": 3_600_000.0})


@dataclass(frozen=True, slots=True)
class Faults:
    """All knobs. Names are those of the flags and of POST /_control/faults."""

    latency_ms: float = _amount("time a call takes, milliseconds", 20.0)
    receipt_delay_ms: float = _amount("mean time between two receipts of a message, milliseconds", 50.0)
    double: float = _rate("share of messages with one receipt sent twice")
    early: float = _rate("share of messages whose first receipt is sent before the call is answered")
    shuffle: float = _rate("share of messages whose receipts are sent out of order")
    read_without_delivered: float = _rate("share of messages that get `read` and never `delivered`")
    unread_rate: float = _rate("share of messages that are never read")
    receipt_loss: float = _rate("share of receipts that are never sent")
    fail_rate: float = _rate("share of accepted messages that fail later, by receipt")
    reject_rate: float = _rate("share of calls that are refused for good")
    throttle_rate: float = _rate("share of calls answered 429")
    hang_rate: float = _rate("share of calls that are taken and never answered")
    error_rate: float = _rate("share of calls answered with an HTML 502 and not taken")
    lost_answer_rate: float = _rate("share of calls answered with an HTML 502 although taken")
    reply_rate: float = _rate("share of messages a person replies to (Telegram)")
    reaction_rate: float = _rate("share of messages a person reacts to (Telegram)")
    retry_after_seconds: float = _amount("wait a 429 asks for, whole seconds", 1.0)
    hang_seconds: float = _amount("how long a hung call is held before its connection is cut, seconds", 60.0)

    def changed(self, knobs: Mapping[str, object]) -> "Faults":
        """The same with some knobs set anew; raises ValueError with a sentence for an unknown knob or a value outside its range."""
        ranges = {knob.name: knob.metadata["most"] for knob in dataclasses.fields(self)}
        new: dict[str, float] = {}
        for name, value in knobs.items():
            if name not in ranges:
                raise ValueError(f"no knob named {name!r}; there are: {', '.join(ranges)}")
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= ranges[name]:
                raise ValueError(f"{name} takes a number from 0 to {ranges[name]:g}")
            new[name] = float(value)
        return dataclasses.replace(self, **new)


@dataclass(frozen=True, slots=True)
class Plan:
    """Receipts of one accepted message as (status, delay in milliseconds after the answer); `early` comes before the answer."""

    early: str | None
    later: tuple[tuple[str, float], ...]


class Dice:
    """Draws fates and plans from one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  # repeatable on purpose

    def happens(self, rate: float) -> bool:
        return rate > 0 and self._random.random() < rate

    def fate(self, faults: Faults) -> Fate:
        rates = (
            (Fate.THROTTLED, faults.throttle_rate),
            (Fate.ERROR, faults.error_rate),
            (Fate.REJECTED, faults.reject_rate),
            (Fate.HUNG, faults.hang_rate),
            (Fate.LOST, faults.lost_answer_rate),
        )
        return next((fate for fate, rate in rates if self.happens(rate)), Fate.ACCEPTED)

    def plan(self, faults: Faults) -> Plan:
        statuses = self._statuses(faults)
        early = statuses.pop(0) if self.happens(faults.early) else None
        delays: list[float] = []
        for _ in statuses:
            delays.append((delays[-1] if delays else 0.0) + faults.receipt_delay_ms * self._random.uniform(0.5, 1.5))
        if self.happens(faults.shuffle):
            self._random.shuffle(delays)
        later = list(zip(statuses, delays, strict=True))
        if self.happens(faults.double):
            repeated = self._random.choice([*statuses, *([early] if early else [])])
            later.append((repeated, self._random.uniform(0.0, 4.0) * faults.receipt_delay_ms))
        return Plan(early, tuple(each for each in later if not self.happens(faults.receipt_loss)))

    def _statuses(self, faults: Faults) -> list[str]:
        if self.happens(faults.fail_rate):
            return ["sent", "failed"]
        if self.happens(faults.unread_rate):
            return ["sent", "delivered"]
        if self.happens(faults.read_without_delivered):
            return ["sent", "read"]
        return ["sent", "delivered", "read"]
