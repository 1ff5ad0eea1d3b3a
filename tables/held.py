"""Table `held` of stage route: messages to a user who is not in `contacts` yet, and the later messages of the same conversations.

Key: "topic/partition/offset" of the record. When a message is held, the stage notes where the topic `contacts` ends. The row stays until
the mirror of contacts has read up to that offset, usually for milliseconds. Then the stage decides on the message again, finally. While a
partition holds as much as it may, its stage takes no further messages: they wait in Kafka.
"""

from dataclasses import dataclass

from tables.framed_layout import FramedLayout

MOST_HELD = 1000  # rows of a partition at which no further message is taken; one turn may go over it by the records it has taken
MOST_HELD_BYTES = 16 << 20  # the same limit for the bytes of their records


@dataclass(frozen=True, slots=True)
class HeldRecord:
    """A whole record that waits."""

    tenant_id: str
    conversation: str  # the conversation's key (schemas/keys.py)
    number: int  # counts the held records of the partition, in the order in which they came
    source: tuple[str, int, int]  # of the record: topic, offset, timestamp in Unix milliseconds
    headers: tuple[str, ...]  # for each header, what its value is: none, text or bytes
    frames: tuple[bytes, ...]  # the record's key and value, then name and value of each header

    @property
    def size(self) -> int:
        """Bytes of the record: key, value and headers."""
        return sum(map(len, self.frames))


HELD = FramedLayout("held", HeldRecord, framed="frames")
