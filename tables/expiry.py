"""Which rows have outlived their window, without scanning the table: keys in buckets by time.

A row lives at least its window and at most its window and a bucket longer. Keys are only hints: a row written again later sits in
two buckets, and whoever expires it looks at the row first.
"""

from collections.abc import Iterable


class Expiry:
    """Keys by bucket. Times are Unix milliseconds, the window is a length in milliseconds."""

    def __init__(self, window: int, *, bucket: int = 3_600_000) -> None:
        self._window = window
        self._bucket = min(bucket, max(1, window // 4))
        self._keys: dict[int, list[bytes]] = {}

    @classmethod
    def of(cls, window: int, rows: Iterable[tuple[bytes, int]]) -> "Expiry":
        """From the (key, time) of existing rows."""
        expiry = cls(window)
        for key, at in rows:
            expiry.add(key, at)
        return expiry

    def add(self, key: bytes, at: int) -> None:
        self._keys.setdefault(at // self._bucket, []).append(key)

    def next_due(self) -> int | None:
        """When the oldest bucket has outlived the window."""
        return (min(self._keys) + 1) * self._bucket + self._window if self._keys else None

    def expired(self, now: int, at_most: int) -> list[bytes]:
        """Takes up to `at_most` keys whose bucket has outlived the window."""
        taken: list[bytes] = []
        while len(taken) < at_most and (due := self.next_due()) is not None and due <= now:
            oldest = min(self._keys)
            keys = self._keys[oldest]
            room = at_most - len(taken)
            taken += keys[-room:]
            del keys[-room:]
            if not keys:
                del self._keys[oldest]
        return taken
