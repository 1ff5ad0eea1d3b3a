"""A worker's membership in its consumer group, in the form that a transaction needs: a member id, and the generation of its assignment.

Kafka takes a transaction's offsets only from a member of the group's current generation. That is the fence: a worker that lost its
membership commits nothing more, whatever it still holds in memory (KIP-447; Kafka Streams calls it exactly_once_v2).
"""

import struct
from typing import NamedTuple


class Member(NamedTuple):
    """A worker's membership in one generation of its group. Each generation has its own Member."""

    group: str
    id: str
    generation: int

    def metadata(self) -> bytes:
        """The membership in librdkafka's own format of a consumer's group metadata: only so can it be used by a producer when the consumer
        is not librdkafka's."""
        end = b"\0"
        names = self.group.encode() + end + self.id.encode() + end
        return b"CGMDv2:" + struct.pack("<i", self.generation) + names + b"\x01"  # no static member
