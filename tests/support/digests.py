"""A digest of a table: two tables with the same rows have the same digest, in any order of the rows."""

import hashlib
from collections.abc import Iterable


def digest(rows: Iterable[tuple[bytes, bytes]]) -> str:
    """The number of rows, and a sum over all of them."""
    number, total = 0, 0
    for key, value in rows:
        row = hashlib.blake2b(b"%d:" % len(key) + key + value, digest_size=8).digest()
        number += 1
        total = (total + int.from_bytes(row, "big")) % 2**64
    return f"{number} rows, {total:016x}"
