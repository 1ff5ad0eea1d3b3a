"""Which keys of a table in memory have the oldest rows, without a scan: keys in lists, one list a minute, 8 bytes a key.

A key in a list is a hint: its row may have gone, or have moved to another minute, since. Whoever reads a list asks the row first.
"""

from bisect import insort
from collections.abc import Callable, Iterator, MutableSequence
from typing import Generic, TypeVar

MINUTE = 60_000  # milliseconds
Key = TypeVar("Key")


class ExpiryIndex(Generic[Key]):
    """`time_of` tells the time of a key's committed row, None when there is no such row; `new` makes the list of a minute."""

    __slots__ = ("_keys", "_minutes", "_new", "_passed", "_time_of")

    def __init__(self, time_of: Callable[[Key], int | None], new: Callable[[], MutableSequence[Key]] = list) -> None:
        self._time_of = time_of
        self._new = new
        self._keys: dict[int, MutableSequence[Key]] = {}  # minute -> keys in the order they came
        self._minutes: list[int] = []  # those of `_keys`, sorted
        self._passed = 0  # leading keys of the oldest minute that are no longer of it

    def add(self, key: Key, at: int) -> None:
        """The key's row is now of that time; not needed when it was of the same minute already."""
        minute = at // MINUTE
        keys = self._keys.get(minute)
        if keys is None:
            keys = self._keys[minute] = self._new()
            insort(self._minutes, minute)
            if self._minutes[0] == minute:
                self._passed = 0
        keys.append(key)

    def oldest(self) -> int | None:
        """The time of the first key of the oldest minute that has any."""
        while self._minutes:
            minute = self._minutes[0]
            keys = self._keys[minute]
            for passed in range(self._passed, len(keys)):
                at = self._time_of(keys[passed])
                if at is not None and at // MINUTE == minute:
                    self._passed = passed
                    return at
            del self._keys[minute], self._minutes[0]
            self._passed = 0
        return None

    def until(self, until: int) -> Iterator[Key]:
        """Keys whose committed rows are of that time or before, the oldest minute first; a key may come twice. Of the minute that
        `until` lies in, only those before the first that is younger. Nothing may be added meanwhile."""
        oldest = self.oldest()
        if oldest is None or oldest > until:
            return
        passed = self._passed
        for minute in self._minutes:
            if minute > until // MINUTE:
                return
            keys = self._keys[minute]
            for i in range(passed, len(keys)):
                at = self._time_of(keys[i])
                if at is None or at // MINUTE != minute:
                    continue
                if at > until:
                    return
                yield keys[i]
            passed = 0
