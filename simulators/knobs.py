"""Numbers that are set by flags and at run time: their ranges, and one way to change some of them.

What enters: a mapping of names to numbers. What leaves: a new frozen object, or ValueError with a sentence. Guaranteed: a name nobody
knows and a value outside its range change nothing.
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
    """Base of every set of knobs; fields are made by `rate` and `amount`."""

    def changed(self, knobs: Mapping[str, object]) -> Self:
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
