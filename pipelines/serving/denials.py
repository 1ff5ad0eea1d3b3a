"""Refused requests: how they are answered, counted and logged.

In: a Denied, raised anywhere in the handling of a request. Out: the answer, a metric, and for each kind at most one log line in
QUIET_SECONDS, with the number of refusals. Guaranteed: answers and log lines contain nothing that the sender wrote, and a flood of
refused requests does not fill a disk with log lines.
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
    """A request is refused with `status` and the sentence `why`, which is ours. `retry_seconds` becomes Retry-After; `because` replaces
    the sentence in the log."""

    def __init__(self, status: int, why: str, retry_seconds: float | None = None, *, because: str = "") -> None:
        super().__init__(why)
        self.status = status
        self.retry_seconds = retry_seconds
        self.because = because or why

    def response(self) -> web.Response:
        headers = {} if self.retry_seconds is None else {"Retry-After": str(max(1, math.ceil(self.retry_seconds)))}
        return web.Response(status=self.status, text=str(self), headers=headers)


class Denials:
    """Counts and logs refusals. A kind is a channel (or another name, as "connection") and a status. Methods do not block."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged_at: dict[tuple[str, int], float] = {}  # at most one entry per channel and status
        self._counted: dict[tuple[str, int], int] = {}

    def note(self, what: str, status: int, why: str) -> None:
        """Counts one refusal, and logs it unless its kind was logged a short time ago. `what` and `why` must be our own texts."""
        metrics.GATEWAY_REFUSED.labels(str(status)).inc()
        kind, now = (what, status), self._clock()
        if now - self._logged_at.get(kind, -math.inf) < QUIET_SECONDS:
            self._counted[kind] = self._counted.get(kind, 0) + 1
            return
        self._logged_at[kind] = now
        write = log.warning if status < 500 else log.error
        write("request refused", what=what, status=status, reason=why, times=1 + self._counted.pop(kind, 0))

    def log_counted(self) -> None:
        """Logs the refusals that were only counted, once their kind was last logged QUIET_SECONDS ago. Call it regularly."""
        now = self._clock()
        for kind in [kind for kind in self._counted if now - self._logged_at[kind] >= QUIET_SECONDS]:
            self._logged_at[kind] = now
            what, status = kind
            log.warning("request refused", what=what, status=status, times=self._counted.pop(kind))
