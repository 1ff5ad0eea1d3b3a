"""Finds the oldest rows of a table in memory without a scan: one list of keys for each minute, 8 bytes per key.

A key in a list is only a hint: its row may have been deleted since, or may have a time in another minute now. So a reader of a list checks
the row first.
"""

from bisect import insort
from collections.abc import Callable, Iterator, MutableSequence
from typing import Generic, TypeVar

MINUTE = 60_000  # milliseconds
Key = TypeVar("Key")


class ExpiryIndex(Generic[Key]):
    """`time_of` returns the time of a key's committed row in Unix milliseconds, None if there is no such row; `new` makes a minute's list.

    In memory only: nothing blocks, and nothing is raised but what `time_of` raises. One thread at a time.
    """

    __slots__ = ("_checked", "_keys", "_minutes", "_new", "_time_of")

    def __init__(self, time_of: Callable[[Key], int | None], new: Callable[[], MutableSequence[Key]] = list) -> None:
        self._time_of = time_of
        self._new = new
        self._keys: dict[int, MutableSequence[Key]] = {}  # minute -> keys in the order they came
        self._minutes: list[int] = []  # those of `_keys`, sorted
        # number of keys at the start of the oldest minute's list whose rows are no longer of that minute
        self._checked = 0

    def add(self, key: Key, at: int) -> None:
        """Notes that the key's row now has the time `at`. The caller may skip it if the row was of the same minute before."""
        minute = at // MINUTE
        keys = self._keys.get(minute)
        if keys is None:
            keys = self._keys[minute] = self._new()
            insort(self._minutes, minute)
            if self._minutes[0] == minute:
                self._checked = 0
        keys.append(key)

    def oldest(self) -> int | None:
        """The time of the first row of the oldest minute that has rows; None if no minute has any."""
        while self._minutes:
            minute = self._minutes[0]
            keys = self._keys[minute]
            for checked in range(self._checked, len(keys)):
                at = self._time_of(keys[checked])
                if at is not None and at // MINUTE == minute:
                    self._checked = checked
                    return at
            del self._keys[minute], self._minutes[0]
            self._checked = 0
        return None

    def due(self, until: int) -> Iterator[Key]:
        """Keys whose committed rows have the time `until` or an earlier one, the oldest minute first; a key may come twice. In the minute
        of `until`, the search stops at the first younger row. Nothing may be added while the iterator is in use."""
        oldest = self.oldest()
        if oldest is None or oldest > until:
            return
        checked = self._checked
        for minute in self._minutes:
            if minute > until // MINUTE:
                return
            keys = self._keys[minute]
            for i in range(checked, len(keys)):
                at = self._time_of(keys[i])
                if at is None or at // MINUTE != minute:
                    continue
                if at > until:
                    return
                yield keys[i]
            checked = 0
