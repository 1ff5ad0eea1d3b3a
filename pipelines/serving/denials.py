"""Requests that are refused before anything is made of them: what is answered, counted and logged.

In: a Denied, raised anywhere on the way of a request. Out: the answer, a metric, and a log line of a kind in ten seconds at most, which
says how many there were. Guaranteed: no answer and no line holds anything the sender wrote; a flood of refused requests fills no disk.
"""

import math
import time
from collections.abc import Callable

import structlog
from aiohttp import web

from schemas import metrics

QUIET_SECONDS = 10.0
log = structlog.get_logger(__name__)


class Denied(Exception):
    """A request is not taken: the status of the answer, and a sentence of ours. `retry_seconds` becomes Retry-After; `because` is for the
    log alone."""

    def __init__(self, status: int, why: str, retry_seconds: float | None = None, *, because: str = "") -> None:
        super().__init__(why)
        self.status = status
        self.retry_seconds = retry_seconds
        self.because = because or why

    def response(self) -> web.Response:
        headers = {} if self.retry_seconds is None else {"Retry-After": str(max(1, math.ceil(self.retry_seconds)))}
        return web.Response(status=self.status, text=str(self), headers=headers)


class Denials:
    """Counts them; a kind is a channel (or what was refused instead) and a status."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[tuple[str, int], float] = {}  # as many as there are channels and statuses
        self._unsaid: dict[tuple[str, int], int] = {}

    def note(self, what: str, status: int, why: str) -> None:
        """One more. `what` and `why` are words of ours."""
        metrics.GATEWAY_REFUSED.labels(str(status)).inc()
        kind, now = (what, status), self._clock()
        if now - self._said.get(kind, -math.inf) < QUIET_SECONDS:
            self._unsaid[kind] = self._unsaid.get(kind, 0) + 1
            return
        self._said[kind] = now
        say = log.warning if status < 500 else log.error
        say("request refused", what=what, status=status, reason=why, times=1 + self._unsaid.pop(kind, 0))

    def tell(self) -> None:
        """Says how often those came that were not said yet and have been quiet long enough; to be called now and then."""
        now = self._clock()
        for kind in [kind for kind in self._unsaid if now - self._said[kind] >= QUIET_SECONDS]:
            self._said[kind] = now
            what, status = kind
            log.warning("request refused", what=what, status=status, times=self._unsaid.pop(kind))
