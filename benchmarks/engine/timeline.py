"""A contender's progress over time, from samples of the committed ends of its output topic.

Enters: samples, and the offsets of all output records. Leaves: its rate, its slowest second and its CPU.
"""

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

Offsets = Mapping[int, "array[int]"]  # partition -> offsets of its records; control records have none


class Sample(NamedTuple):
    """Committed ends by partition at a moment (monotonic seconds), and the CPU seconds that the contender had used until then."""

    at: float
    ends: Mapping[int, int]
    cpu: float


@dataclass(frozen=True, slots=True)
class Pace:
    """The progress from the first committed output to the last."""

    per_second: float
    seconds: float
    slowest_share: float | None  # slowest whole second / median second; None for a run of less than three of them
    busy: float  # share of its core that the contender used
    cpu_us: float  # CPU time an output, microseconds


def pace(samples: Sequence[Sample], offsets: Offsets) -> Pace:
    """The pace of a run whose last sample has all outputs. Raises RuntimeError when the run was too short to measure."""
    counts = [sum(bisect_left(offsets[p], end) for p, end in sample.ends.items() if p in offsets) for sample in samples]
    first = next(i for i, count in enumerate(counts) if count)
    last = counts.index(counts[-1])
    if last <= first:
        raise RuntimeError("everything was committed between two samples: take more records")
    began, seconds = samples[first].at, samples[last].at - samples[first].at
    cpu = samples[last].cpu - samples[first].cpu
    times = [sample.at - began for sample in samples[first : last + 1]]
    reached = counts[first : last + 1]
    by_second = [_at(times, reached, s + 1) - _at(times, reached, s) for s in range(int(seconds))]
    return Pace(
        per_second=(counts[last] - counts[first]) / seconds,
        seconds=seconds,
        slowest_share=min(by_second) / median(by_second) if len(by_second) >= 3 else None,
        busy=cpu / seconds,
        cpu_us=cpu * 1e6 / (counts[last] - counts[first]),
    )


def _at(times: Sequence[float], reached: Sequence[int], moment: float) -> float:
    """The number of outputs committed at a moment, interpolated between two samples."""
    after = bisect_left(times, moment)
    if times[after] == moment or after == 0:
        return reached[after]
    share = (moment - times[after - 1]) / (times[after] - times[after - 1])
    return reached[after - 1] + share * (reached[after] - reached[after - 1])
