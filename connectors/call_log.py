"""The call log: every call to a provider and its answer, without a secret, a text or an address.

What enters: one LoggedCall for each call, from http_calls.py. What leaves: a line of JSON on logger `connectors.call_log` (info when the
provider answered without an error, else warning), and the newest calls in memory, which a worker shows at /exchanges/. Guaranteed: a
LoggedCall has ids, codes and times only; a call that the worker cancelled when it ended is logged too. To find what was sent at 03:12 and
what was answered, search the log for `"event":"exchange"` and `T03:12`, or for the delivery id. docs/call-log.md describes the fields.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

KEPT = 5000
WRITE_TOGETHER = 64
WRITE_SECONDS = 0.1
LOGGER = logging.getLogger(__name__)
_DATACLASS_START = len("{")


@dataclass(slots=True, kw_only=True)
class LoggedCall:
    """One HTTP call; treat it as immutable. `delivery_id` is empty for a call that belongs to no delivery (a probe)."""

    started_at: int  # Unix milliseconds
    duration_ms: float
    channel: str
    delivery_id: str
    attempt: int
    method: str
    url: str  # without secrets and without its query
    status: int | None  # None: there was no answer
    error: str | None  # the provider's error code, or how the call broke
    request_id: str | None  # the provider's own id of the call, which its support asks for

    @property
    def is_good(self) -> bool:
        return self.status == 200 and self.error is None

    def line(self) -> bytes:
        """The fields as JSON, with the start also in a readable form (UTC)."""
        level = "info" if self.is_good else "warning"
        started = f"{_second(self.started_at // 1000)}.{self.started_at % 1000:03}Z"
        head = f'{{"event":"exchange","level":"{level}","started":"{started}",'
        return head.encode() + orjson.dumps(self)[_DATACLASS_START:]


class CallLog:
    """The newest calls of this process, at most `kept`. One instance, for one event loop; recording takes a few microseconds.

    With `write` set, lines are written together, at most WRITE_SECONDS late: a killed worker loses the lines of that time. `write` blocks
    the loop for as long as it takes. Without it, each line goes to LOGGER at once. (A log record and a write for each line would cost a
    tenth of the call itself.) LOGGER's level applies in both cases.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._newest: deque[LoggedCall] = deque(maxlen=kept)
        self._unwritten: list[bytes] = []
        self.write: Callable[[bytes], object] | None = None

    def record(self, call: LoggedCall) -> None:
        """Adds one call. Call it inside the running loop when `write` is set."""
        self._newest.append(call)
        level = logging.INFO if call.is_good else logging.WARNING
        if not LOGGER.isEnabledFor(level):
            return
        if self.write is None:
            LOGGER.log(level, call.line().decode())
            return
        self._unwritten.append(call.line())
        if len(self._unwritten) == 1:
            asyncio.get_running_loop().call_later(WRITE_SECONDS, self.flush)
        elif len(self._unwritten) >= WRITE_TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Writes the lines that wait. An OSError is ignored: a log that cannot be written must not stop deliveries."""
        lines, self._unwritten = self._unwritten, []
        if lines and self.write is not None:
            with contextlib.suppress(OSError):
                self.write(b"\n".join((*lines, b"")))

    def newest(self, *, delivery_id: str = "", since: int = 0, until: int = 2**63, limit: int = 100) -> list[Any]:
        """At most `limit` calls in the form of their lines, newest first, with `since` <= start < `until` in Unix milliseconds."""
        found = (
            orjson.loads(each.line())
            for each in reversed(self._newest)
            if since <= each.started_at < until and delivery_id in ("", each.delivery_id)
        )
        return list(islice(found, limit))

    def __iter__(self) -> Iterator[LoggedCall]:
        """Oldest first."""
        return iter(tuple(self._newest))


_written = (-1, "")  # the newest second, and its readable form


def _second(seconds: int) -> str:
    global _written  # noqa: PLW0603  # most calls start in the same second as the one before
    if _written[0] != seconds:
        _written = seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return _written[1]


CALL_LOG = CallLog()
