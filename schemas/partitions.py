"""The home partition of a conversation, as Java's default partitioner computes it: murmur2 of the key.

librdkafka calls this partitioner `murmur2_random`; its default is CRC32. A producer that uses the default writes to other partitions, and
route then produces its records again to their home partitions. Pure.
"""

_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit murmur2 hash, as an unsigned number."""
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        k ^= k >> 24
        h = (h * _M & _MASK) ^ (k * _M & _MASK)
    rest = data[whole:]
    if rest:
        h ^= int.from_bytes(rest, "little")
        h = h * _M & _MASK
    h ^= h >> 13
    h = h * _M & _MASK
    return h ^ h >> 15


def home_partition(key: str | bytes, partitions: int) -> int:
    """Number of the partition, from 0, that holds a conversation. `key` is the conversation's key (schemas/keys.py; text counts as UTF-8),
    `partitions` the number of partitions, 1 or more."""
    return (murmur2(key.encode() if isinstance(key, str) else key) & 0x7FFFFFFF) % partitions
