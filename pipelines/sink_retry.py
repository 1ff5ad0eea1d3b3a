"""Waiting for a database that is away: a sink's batch is tried again until it is taken; its partition stands still meanwhile.

Standing still is right: the records wait in Kafka, nothing is lost, and the lag shows it. Anything else than Unavailable passes
through and ends the worker.
"""

from collections.abc import Awaitable, Callable

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from sinks.sink_errors import Unavailable

log = structlog.get_logger(__name__)


async def until_available(write: Callable[[], Awaitable[object]], what: str) -> None:
    """Awaits `write()` until it does not raise Unavailable; waits 0.1 to 10 s between tries and says so."""

    def say(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning("waiting for the database", sink=what, tries=state.attempt_number, error=str(error))

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(Unavailable),
        wait=wait_exponential_jitter(multiplier=0.1, max=10),
        before_sleep=say,
        reraise=True,
    )

    async def attempt() -> None:  # tenacity awaits only what it can see to be a coroutine function
        await write()

    await retrying(attempt)
