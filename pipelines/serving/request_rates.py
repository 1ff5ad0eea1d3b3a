"""Requests a second by name (an address, an account): token buckets of which only so many are remembered.

In: a name and the time. Out: how long to wait, 0 for a request that may pass. Guaranteed: memory is bounded whatever names come; the
name that was not heard of for longest is forgotten first, and begins anew with a full bucket.
"""

from collections import OrderedDict

MOST_NAMES = 10_000


class RequestRates:
    """`rate` tokens a second, at most `burst` at once; a rate of 0 lets everything pass."""

    def __init__(self, rate: float, burst: float, *, most_names: int = MOST_NAMES) -> None:
        self._rate = rate
        self._burst = max(1.0, burst)
        self._most_names = most_names
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name -> tokens left, and when

    def __len__(self) -> int:
        return len(self._left)

    def take(self, name: str, now: float) -> float:
        """Takes a token; without one, returns the seconds until there is one again."""
        if not self._rate:
            return 0.0
        tokens = self._tokens(name, now)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._rate
        self._left[name] = (tokens if wait else tokens - 1, now)
        self._left.move_to_end(name)
        if len(self._left) > self._most_names:
            self._left.popitem(last=False)
        return wait

    def give_back(self, name: str, now: float) -> None:
        """The request needed no token after all."""
        if name in self._left:
            self._left[name] = (min(self._burst, self._tokens(name, now) + 1), now)

    def _tokens(self, name: str, now: float) -> float:
        left, at = self._left.get(name, (self._burst, now))
        return min(self._burst, left + (now - at) * self._rate)
