"""A map of very many keys and values, as bytes in few objects: it takes about 15 bytes per pair beyond the pair, where a dict takes 180.

Pairs are stored one after the other in buckets, about six in each: the sizes of key and value, the key, the value. The key's hash gives the
bucket, which is then searched. Buckets are split one at a time as pairs are added (linear hashing), so no write moves all pairs. A large
value is stored outside the buckets, so that writing a small value beside it stays cheap.
"""

import struct
from collections.abc import Iterator

LOAD = 6  # pairs per bucket, on average
LARGE = 1024  # bytes from which a value is stored outside the buckets
_SIZES = struct.Struct("<HH")  # of key and value


class Buckets:
    """A dict from bytes to bytes. Keys have at most 65,535 bytes (`put` raises struct.error for a longer one); values have any length.

    Nothing blocks. No lock: one thread at a time. In a bucket, the pair written last is found first.
    """

    __slots__ = ("_buckets", "_half", "_large", "_number")

    def __init__(self) -> None:
        self._buckets = [b""]
        self._half = 1  # the largest power of two that is not above the number of buckets
        self._large: dict[bytes, bytes] = {}  # the buckets hold these keys too, with empty values
        self._number = 0

    def __len__(self) -> int:
        return self._number

    def __contains__(self, key: bytes) -> bool:
        return _find(self._buckets[self._index(hash(key))], key) is not None

    def get(self, key: bytes) -> bytes | None:
        bucket = self._buckets[self._index(hash(key))]
        found = _find(bucket, key)
        return None if found is None else self._value(key, bucket[found[1] : found[2]])

    def put(self, key: bytes, value: bytes) -> None:
        index = self._index(hash(key))
        others, was_there = self._taken_out(index, key)
        if len(value) >= LARGE:
            self._large[key] = value
            value = b""
        self._buckets[index] = b"".join((_SIZES.pack(len(key), len(value)), key, value, others))
        if not was_there:
            self._number += 1
            if self._number > LOAD * len(self._buckets):
                self._split()

    def delete(self, key: bytes) -> None:
        index = self._index(hash(key))
        self._buckets[index], was_there = self._taken_out(index, key)
        self._number -= was_there

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every pair, in no order. The map must not change while the iterator is in use."""
        for bucket in self._buckets:
            for at, start, end in _pairs(bucket):
                key = bucket[at + _SIZES.size : start]
                yield key, self._value(key, bucket[start:end])

    def keys_from(self, index: int, at_least: int) -> tuple[list[bytes], int | None]:
        """The keys of whole buckets from `index` on, `at_least` so many if there are; and the index after them, None at the end. A bucket
        that is split later moves keys only behind that index, so no key is left out."""
        keys: list[bytes] = []
        while index < len(self._buckets) and len(keys) < at_least:
            bucket = self._buckets[index]
            keys += [bucket[at + _SIZES.size : start] for at, start, _ in _pairs(bucket)]
            index += 1
        return keys, index if index < len(self._buckets) else None

    def keys_of(self, hashed: int) -> list[bytes]:
        """The keys with this hash: nearly always one at most."""
        bucket = self._buckets[self._index(hashed)]
        keys = [bucket[at + _SIZES.size : start] for at, start, _ in _pairs(bucket)]
        return [key for key in keys if hash(key) == hashed]

    def _index(self, hashed: int) -> int:
        """Index of the bucket: the last bits of the hash, one bit fewer for buckets that are not split yet."""
        index = hashed & (2 * self._half - 1)
        return index if index < len(self._buckets) else index - self._half

    def _value(self, key: bytes, held: bytes) -> bytes:
        return held or self._large.get(key, held)

    def _taken_out(self, index: int, key: bytes) -> tuple[bytes, bool]:
        """A bucket without the key's pair, and whether there was one."""
        bucket = self._buckets[index]
        found = _find(bucket, key)
        if found is None:
            return bucket, False
        self._large.pop(key, None)
        return bucket[: found[0]] + bucket[found[2] :], True

    def _split(self) -> None:
        """Moves about half of one bucket's pairs to a new one."""
        index = len(self._buckets) - self._half
        bucket = self._buckets[index]
        stay: list[bytes] = []
        go: list[bytes] = []
        for at, start, end in _pairs(bucket):
            goes = hash(bucket[at + _SIZES.size : start]) & self._half
            (go if goes else stay).append(bucket[at:end])
        self._buckets[index] = b"".join(stay)
        self._buckets.append(b"".join(go))
        if len(self._buckets) == 2 * self._half:
            self._half *= 2


def _pairs(bucket: bytes) -> Iterator[tuple[int, int, int]]:
    """For each pair: where it begins, where its value begins, and where it ends."""
    at, whole = 0, len(bucket)
    while at < whole:
        key_size, size = _SIZES.unpack_from(bucket, at)
        start = at + _SIZES.size + key_size
        yield at, start, start + size
        at = start + size


def _find(bucket: bytes, key: bytes) -> tuple[int, int, int] | None:
    """Like `_pairs`, for the key's pair only; None if there is none."""
    if key not in bucket:
        # quicker than a look at each pair; the opposite proves nothing, as the bytes may be part of a value
        return None
    at, whole, wanted = 0, len(bucket), len(key)
    while at < whole:
        key_size, size = _SIZES.unpack_from(bucket, at)
        start = at + _SIZES.size + key_size
        if key_size == wanted and bucket.startswith(key, at + _SIZES.size):
            return at, start, start + size
        at = start + size
    return None
