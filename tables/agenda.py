"""What is due when: one due time per key, the earliest first."""

import heapq


class Agenda:
    """A heap with lazy deletion; setting a key again moves it. Times are Unix milliseconds."""

    def __init__(self) -> None:
        self._due: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._due)

    def set(self, key: str, due: int) -> None:
        if self._due.get(key) == due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, key))
        if len(self._heap) > 2 * len(self._due) + 64:  # mostly what was moved or cancelled
            self._heap = [(due, key) for key, due in self._due.items()]
            heapq.heapify(self._heap)

    def cancel(self, key: str) -> None:
        self._due.pop(key, None)

    def next_due(self) -> int | None:
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def take_due(self, now: int, at_most: int | None = None) -> list[str]:
        """Removes and returns the keys due by now, the earliest first; `at_most` so many, and the others at the next call."""
        keys: list[str] = []
        while len(keys) != at_most and (due := self.next_due()) is not None and due <= now:
            key = heapq.heappop(self._heap)[1]
            del self._due[key]
            keys.append(key)
        return keys

    def _drop_stale(self) -> None:
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
