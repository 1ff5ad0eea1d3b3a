"""Who a worker is to its consumer group, as a transaction has to say it: a name, and the generation that gave it its partitions.

Kafka takes a transaction's offsets only from a member of the group's present generation. That is the fence: whoever was away, whatever
it still holds in memory, commits nothing more (KIP-447, what Kafka Streams calls exactly_once_v2).
"""

import struct
from typing import NamedTuple


class Member(NamedTuple):
    """A worker's membership in one generation of its group. Another generation is another Member."""

    group: str
    id: str
    generation: int

    def metadata(self) -> bytes:
        """As librdkafka writes down a consumer's group metadata; it has no other way to be told of a member that is not its own."""
        end = b"\0"
        names = self.group.encode() + end + self.id.encode() + end
        return b"CGMDv2:" + struct.pack("<i", self.generation) + names + b"\x01"  # no static member
