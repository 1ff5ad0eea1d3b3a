"""Knobs: numbers that flags and the control API set, with their ranges.

What enters: a mapping of names to numbers. What leaves: a new frozen object, or ValueError with a sentence. Guaranteed: an unknown name or
a value outside its range changes nothing.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self


def rate(about: str, default: float = 0.0) -> float:
    """A share from 0 to 1."""
    return field(default=default, metadata={"about": about, "most": 1.0})


def amount(about: str, default: float, most: float = 3_600_000.0) -> float:
    return field(default=default, metadata={"about": about, "most": most})


@dataclass(frozen=True, slots=True)
class Knobs:
    """Base of every set of knobs. Define fields with `rate` and `amount`."""

    def changed(self, knobs: Mapping[str, object]) -> Self:
        """A copy with new values for some knobs. Raises ValueError with a sentence for an unknown knob or a value outside its range."""
        ranges = {knob.name: knob.metadata["most"] for knob in dataclasses.fields(self)}
        new: dict[str, float] = {}
        for name, value in knobs.items():
            if name not in ranges:
                raise ValueError(f"no knob named {name!r}; there are: {', '.join(ranges)}")
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= ranges[name]:
                raise ValueError(f"{name} takes a number from 0 to {ranges[name]:g}")
            new[name] = float(value)
        return dataclasses.replace(self, **new)
