"""How many records the next turn may take, so that no decision takes long. No clock, no I/O."""

FEWEST_RECORDS = 16  # a turn may take so many, however slow they are: each transaction has a cost of its own


class TurnSize:
    """Halves the bound after a decision that took too long, and doubles it again while decisions are quick. `at_most` is the bound."""

    def __init__(self, most: int, wanted_seconds: float) -> None:
        self.at_most = most
        self._most = most
        self._wanted = wanted_seconds

    @property
    def is_less(self) -> bool:
        """Whether a turn may take fewer records than usual."""
        return self.at_most < self._most

    def decided(self, records: int, seconds: float) -> None:
        """Notes that a decision on so many records took so long."""
        if seconds > self._wanted and records > FEWEST_RECORDS:
            self.at_most = max(FEWEST_RECORDS, min(self.at_most, records) // 2)
        elif seconds < self._wanted / 4 and records >= self.at_most:
            self.at_most = min(2 * self.at_most, self._most)

    def undone(self, records: int) -> None:
        """Notes that a decision on so many records made more than one transaction can take."""
        self.at_most = records // 2
