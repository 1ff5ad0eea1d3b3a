"""Table `held` of stage route: messages to somebody who is in no contact yet, and those behind them in their conversations.

Key: the place the record came from, topic/partition/offset. A row lives until the mirror of contacts has passed where the topic ended when
the message was held, milliseconds as a rule; then the message is decided on again, for good. While a partition holds as much as it may,
its stage takes no further messages: they wait in Kafka.
"""

from dataclasses import dataclass

from tables.framed_layout import FramedLayout

MOST_HELD = 1000  # rows of a partition above which nothing further is taken; a turn may go over by what it brought
MOST_HELD_BYTES = 16 << 20  # the same of their records' bytes


@dataclass(frozen=True, slots=True)
class HeldRecord:
    """A record that waits, whole. Immutable; `size` is in bytes."""

    tenant_id: str
    conversation: str  # the conversation's key
    number: int  # counts what is held in the partition: the order in which it came
    source: tuple[str, int, int]  # topic, offset and timestamp of the record
    # how each header's value is kept: none, text or bytes
    headers: tuple[str, ...]
    # the record's key and value, then name and value of each header
    frames: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """Bytes of the record."""
        return sum(map(len, self.frames))


HELD = FramedLayout("held", HeldRecord, framed="frames")
