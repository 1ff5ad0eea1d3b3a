"""Rate limits by name (an address, an account): one token bucket for each name.

In: a name and the time. Out: how long to wait, 0 for a request that may pass. Guaranteed: at most `most_names` buckets are kept; the least
recently used one is dropped first, and its name starts again with a full bucket. No I/O.
"""

from collections import OrderedDict

MOST_NAMES = 10_000


class RequestRates:
    """Buckets with `rate` tokens a second and at most `burst` tokens. With rate 0 every request may pass. Times are in seconds."""

    def __init__(self, rate: float, burst: float, *, most_names: int = MOST_NAMES) -> None:
        self._rate = rate
        self._burst = max(1.0, burst)
        self._most_names = most_names
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name -> (tokens left, at this time)

    def __len__(self) -> int:
        return len(self._left)

    def take(self, name: str, now: float) -> float:
        """Takes a token and returns 0; if there is none, returns the seconds until the next one."""
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
        """Returns the token of a request that proved authentic."""
        if name in self._left:
            self._left[name] = (min(self._burst, self._tokens(name, now) + 1), now)

    def _tokens(self, name: str, now: float) -> float:
        left, at = self._left.get(name, (self._burst, now))
        return min(self._burst, left + (now - at) * self._rate)
