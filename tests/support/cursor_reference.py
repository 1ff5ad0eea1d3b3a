"""What the cursors of one member are, from a look at every delivery: the reference that stage track and its table are held against."""

from collections.abc import Sequence
from dataclasses import dataclass, field

# What becomes known of a delivery; the number of a delivery is drawn beside it.
SENT, DELIVERED, READ, FAILED = "sent", "delivered", "read", "failed"
CHANNELS = {"whatsapp": (True, True), "instagram": (False, True), "telegram": (False, False)}


@dataclass
class Reference:
    """Every delivery with what is known of it; the cursors follow by looking at all of them."""

    channels: Sequence[str]
    seqs: Sequence[int]
    made: int = 0
    known: list[set[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.known = [set() for _ in self.channels]

    def is_ended(self, n: int) -> bool:
        sees_delivered, _ = CHANNELS[self.channels[n]]
        known = self.known[n]
        return bool(known & {DELIVERED, READ, FAILED}) or (SENT in known and not sees_delivered)

    def is_observed(self, n: int) -> bool:
        return bool(self.known[n] & {DELIVERED, READ, FAILED})

    def before_open(self) -> range:
        made = range(self.made)
        return range(next((n for n in made if not self.is_ended(n)), self.made))

    def delivered(self) -> int | None:
        """The newest known arrival, or failure, before the first open delivery; what is read has arrived."""
        if not any(CHANNELS[channel][0] for channel in self.channels[: self.made]):
            return None
        return max((self.seqs[n] for n in self.before_open() if self.is_observed(n) or self.is_read(n)), default=0)

    def read(self) -> int | None:
        if not any(CHANNELS[channel][1] for channel in self.channels[: self.made]):
            return None
        return max((self.seqs[n] for n in self.before_open() if self.is_read(n)), default=0)

    def is_read(self, n: int) -> bool:
        """It was read, or a later one."""
        return any(READ in known for known in self.known[n : self.made])
