"""How many records the next turn may take, so that no decision takes long. No clock, no I/O."""

FEWEST_RECORDS = 16  # a turn may take so many however long they take: its transaction has a price too


class TurnSize:
    """Halves what turns may take after a decision that took too long, doubles it again while there is time."""

    def __init__(self, most: int, wanted_seconds: float) -> None:
        self.at_most = most
        self._most = most
        self._wanted = wanted_seconds

    @property
    def is_less(self) -> bool:
        """Whether a turn may take fewer records than usual."""
        return self.at_most < self._most

    def decided(self, records: int, seconds: float) -> None:
        """A decision on so many records took so long."""
        if seconds > self._wanted and records > FEWEST_RECORDS:
            self.at_most = max(FEWEST_RECORDS, min(self.at_most, records) // 2)
        elif seconds < self._wanted / 4 and records >= self.at_most:
            self.at_most = min(2 * self.at_most, self._most)

    def undone(self, records: int) -> None:
        """A decision on so many made too much."""
        self.at_most = records // 2
