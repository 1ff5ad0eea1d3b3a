"""The exchange log: what each call to a provider was and what came back, without a secret, a text or an address.

What enters: one Exchange a call, from exchange.py. What leaves: a line of JSON on logger `connectors.exchange_log` (info when the
provider answered without an error, else warning), and the newest ones in memory, which a worker shows at /exchanges/. Guaranteed: an
Exchange holds ids, codes and times only; a call that was cut off by the worker's end is told too. "What did we send at 03:12, and what
came back?": grep the log for `"event":"exchange"` and `T03:12`, or for the delivery id.
"""

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import orjson

KEPT = 5000
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One HTTP call. `delivery_id` is empty for a call on behalf of no delivery (a probe)."""

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

    def as_json(self) -> dict[str, Any]:
        """The fields, with the start as a person writes it (UTC)."""
        started = datetime.fromtimestamp(self.started_at / 1000, UTC).isoformat(timespec="milliseconds")
        return {"started": started} | {name: getattr(self, name) for name in _SHOWN}


_SHOWN = tuple(field.name for field in fields(Exchange))


class ExchangeLog:
    """The newest exchanges of this process. One instance, for one event loop; recording costs some microseconds."""

    def __init__(self, kept: int = KEPT) -> None:
        self._newest: deque[Exchange] = deque(maxlen=kept)

    def record(self, exchange: Exchange) -> None:
        self._newest.append(exchange)
        level = logging.INFO if exchange.is_good else logging.WARNING
        if LOGGER.isEnabledFor(level):
            line = {"event": "exchange", "level": logging.getLevelName(level).lower()} | exchange.as_json()
            LOGGER.log(
                level, orjson.dumps(line).decode()
            )  # JSON already: a formatter for each line would cost more than the line

    def newest(self, *, delivery_id: str = "", since: int = 0, until: int = 2**63, limit: int = 100) -> list[Any]:
        """At most `limit` exchanges as JSON, newest first; `since` and `until` are Unix milliseconds of their start."""
        found = (
            each.as_json()
            for each in reversed(self._newest)
            if since <= each.started_at < until and delivery_id in ("", each.delivery_id)
        )
        return list(islice(found, limit))

    def __iter__(self) -> Iterator[Exchange]:
        """Oldest first."""
        return iter(tuple(self._newest))


EXCHANGES = ExchangeLog()
