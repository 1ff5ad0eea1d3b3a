"""Misbehaviour that starts and ends by a schedule: bursts of 5xx, slow minutes, a quiet end.

What enters: phases {"after_calls" or "after_seconds", "for_calls" or "for_seconds", "knobs": {...}}. What leaves: the knobs of the next
call. Guaranteed: phases counted in calls make a run repeatable; later phases override earlier ones; an invalid list changes nothing.
"""

from dataclasses import dataclass
from typing import Any

from simulators.clock import Clock
from simulators.misbehaviour import Misbehaviour


@dataclass(frozen=True, slots=True)
class SchedulePhase:
    """Calls (by number) or moments (Unix milliseconds of the provider's clock) with `start` <= call or moment < `end`."""

    counts_calls: bool
    start: float
    end: float
    knobs: dict[str, object]


class Schedule:
    """The phases of one provider. `misbehaviour` has the knobs outside every phase; assign to it to change them."""

    def __init__(self, misbehaviour: Misbehaviour, clock: Clock) -> None:
        self.misbehaviour = misbehaviour
        self._clock = clock
        self._calls = 0
        self._phases: tuple[SchedulePhase, ...] = ()

    def plan(self, phases: object) -> None:
        """Replaces the phases; the new ones count from now. Raises ValueError with a sentence."""
        if not isinstance(phases, list):
            raise ValueError('a schedule is a list of phases: [{"after_calls": 100, "for_calls": 20, "knobs": {...}}]')  # noqa: TRY004  # the control API answers every ValueError with 400
        self._phases = tuple(self._phase(phase) for phase in phases)

    @property
    def batch(self) -> int:
        """The most notices in one webhook. Phases do not change it."""
        return max(int(self.misbehaviour.batch), 1)

    @property
    def phases(self) -> int:
        """The number of phases."""
        return len(self._phases)

    def now(self) -> Misbehaviour:
        """Counts one call and returns its knobs."""
        self._calls += 1
        if not self._phases:
            return self.misbehaviour
        now, misbehaviour = self._clock.now(), self.misbehaviour
        for phase in self._phases:
            if phase.start <= (self._calls if phase.counts_calls else now) < phase.end:
                misbehaviour = misbehaviour.changed(phase.knobs)
        return misbehaviour

    def _phase(self, given: Any) -> SchedulePhase:
        if not isinstance(given, dict) or not isinstance(given.get("knobs"), dict):
            sentence = 'a phase is {"after_calls" or "after_seconds", "for_calls" or "for_seconds", "knobs": {...}}'
            raise ValueError(sentence)  # noqa: TRY004  # answered with 400, as every ValueError
        self.misbehaviour.changed(given["knobs"])  # raises ValueError for unknown knobs
        for unit, origin, scale in (("calls", self._calls + 1, 1), ("seconds", self._clock.now(), 1000)):
            lasts = _number(given, f"for_{unit}")
            if lasts is not None:
                start = origin + (_number(given, f"after_{unit}") or 0) * scale
                return SchedulePhase(unit == "calls", start, start + lasts * scale, dict(given["knobs"]))
        raise ValueError("a phase needs its length: for_calls or for_seconds")


def _number(given: dict[str, Any], name: str) -> float | None:
    value: Any = given.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} takes a number that is at least 0")
    return float(value)
