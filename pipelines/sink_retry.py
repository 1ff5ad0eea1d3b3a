"""Retries a sink's write while its database is unavailable.

In: a write. Out: its success, or its error. Guaranteed: the write is retried until it does not raise Unavailable. Its partition takes no
turn meanwhile; no record is lost, because the records wait in Kafka, and the lag shows it.
"""

import time
from collections.abc import Awaitable, Callable

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from sinks.sink_errors import Unavailable

log = structlog.get_logger(__name__)


def is_older(at: int, age_ms: int) -> bool:
    """Whether this moment (Unix milliseconds) is longer ago than `age_ms`, by the worker's clock."""
    return time.time() * 1000 - at > age_ms


async def until_available(write: Callable[[], Awaitable[object]], what: str) -> None:
    """Awaits `write()` until it does not raise Unavailable. Waits 0.1 to 10 s between attempts (exponential back-off with jitter) and logs
    each wait. `what` is the database's name for the log.

    Runs on the caller's loop and does not block it. Raises any other error of `write` at once; a stage lets it end the worker. There is no
    time-out: the engine decides how long a rebalance waits."""

    def log_wait(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning("waiting for the database", sink=what, tries=state.attempt_number, error=str(error))

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(Unavailable),
        wait=wait_exponential_jitter(multiplier=0.1, max=10),
        before_sleep=log_wait,
        reraise=True,
    )

    async def attempt() -> None:  # tenacity awaits only coroutine functions
        await write()

    await retrying(attempt)
