"""The phases of a soak: idle, one message a second, a burst, idle, in rounds of about five minutes.

In: minutes. Out: phases. Pure. Two shares divide each phase into three parts: an application runs short transactions and keeps a long one
open; only the long one is open; only the loader produces (in an idle phase, nothing happens at all).
"""

from dataclasses import dataclass
from enum import StrEnum

ROUND_MINUTES = 5.0
SHORT_UNTIL = 0.3  # of a phase: short transactions follow each other until then
OPEN_UNTIL = 0.65  # of a phase: the long transaction is open until then


class Kind(StrEnum):
    """What the loader does in a phase."""

    IDLE = "idle"
    STEADY = "one a second"
    BURST = "burst"


RATES = {Kind.IDLE: 0, Kind.STEADY: 1, Kind.BURST: 50}  # messages a second
_ROUND = ((Kind.IDLE, 0.25), (Kind.STEADY, 0.3), (Kind.BURST, 0.15), (Kind.IDLE, 0.3))


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase. `round` counts from 0, `number` too and over all rounds."""

    number: int
    round: int
    kind: Kind
    seconds: float

    @property
    def messages(self) -> int:
        """How many the loader produces."""
        return round(RATES[self.kind] * self.seconds)

    @property
    def long_one_commits(self) -> bool:
        """How the long transaction ends, turn about; the idle phases of a round see both."""
        return self.number % 2 == 1


def phases(minutes: float) -> list[Phase]:
    """The phases of a run, in order; together they take so many minutes."""
    rounds = max(1, round(minutes / ROUND_MINUTES))
    seconds = minutes * 60 / rounds
    made = [(each, kind, share) for each in range(rounds) for kind, share in _ROUND]
    return [Phase(number, each, kind, seconds * share) for number, (each, kind, share) in enumerate(made)]
