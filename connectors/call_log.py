"""The exchange log: what each call to a provider was and what came back, without a secret, a text or an address.

What enters: one Exchange a call, from http_calls.py. What leaves: a line of JSON on logger `connectors.call_log` (info when the
provider answered without an error, else warning), and the newest ones in memory, which a worker shows at /exchanges/. Guaranteed: an
Exchange holds ids, codes and times only; a call that was cut off by the worker's end is told too. "What did we send at 03:12, and what
came back?": grep the log for `"event":"exchange"` and `T03:12`, or for the delivery id.
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
    """One HTTP call; not to be changed. `delivery_id` is empty for a call on behalf of no delivery (a probe)."""

    started_at: int  # Unix milliseconds
    duration_ms: float
    channel: str
    delivery_id: str
    attempt: int
    method: str
    url: str  # without secrets and without its query
    status: int | None  # None: no answer came
    error: str | None  # the provider's error code, or how the call broke
    request_id: str | None  # the provider's own id of the call: what its support asks for

    @property
    def is_good(self) -> bool:
        return self.status == 200 and self.error is None

    def line(self) -> bytes:
        """The fields as JSON, with the start as a person writes it (UTC)."""
        level = "info" if self.is_good else "warning"
        started = f"{_second(self.started_at // 1000)}.{self.started_at % 1000:03}Z"
        head = f'{{"event":"exchange","level":"{level}","started":"{started}",'
        return head.encode() + orjson.dumps(self)[_DATACLASS_START:]


class CallLog:
    """The newest exchanges of this process. One instance, for one event loop; recording costs a few microseconds.

    Lines go to `write` where there is one, some together, at most WRITE_SECONDS late (a killed worker takes so many with it); else
    each goes to LOGGER at once. A log record and a write for each line would cost a tenth of the call itself. LOGGER's level decides
    in both cases.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._newest: deque[LoggedCall] = deque(maxlen=kept)
        self._unwritten: list[bytes] = []
        self.write: Callable[[bytes], object] | None = None

    def record(self, exchange: LoggedCall) -> None:
        """To be called inside the running loop."""
        self._newest.append(exchange)
        level = logging.INFO if exchange.is_good else logging.WARNING
        if not LOGGER.isEnabledFor(level):
            return
        if self.write is None:
            LOGGER.log(level, exchange.line().decode())
            return
        self._unwritten.append(exchange.line())
        if len(self._unwritten) == 1:
            asyncio.get_running_loop().call_later(WRITE_SECONDS, self.flush)
        elif len(self._unwritten) >= WRITE_TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Writes what waits; a log that cannot be written stops no delivery."""
        lines, self._unwritten = self._unwritten, []
        if lines and self.write is not None:
            with contextlib.suppress(OSError):
                self.write(b"\n".join((*lines, b"")))

    def newest(self, *, delivery_id: str = "", since: int = 0, until: int = 2**63, limit: int = 100) -> list[Any]:
        """At most `limit` exchanges as their lines say them, newest first; `since` and `until` are Unix milliseconds of their start."""
        found = (
            orjson.loads(each.line())
            for each in reversed(self._newest)
            if since <= each.started_at < until and delivery_id in ("", each.delivery_id)
        )
        return list(islice(found, limit))

    def __iter__(self) -> Iterator[LoggedCall]:
        """Oldest first."""
        return iter(tuple(self._newest))


_written = (-1, "")  # the newest second, and how a person writes it


def _second(seconds: int) -> str:
    global _written  # noqa: PLW0603  # most calls fall into the second of the one before
    if _written[0] != seconds:
        _written = seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return _written[1]


CALL_LOG = CallLog()
