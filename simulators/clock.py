"""The clock of a simulated provider: real time plus an offset that tests push forward.

What enters: an offset. What leaves: the provider's idea of now, Unix milliseconds. Guaranteed: it never runs backwards by itself; windows,
rate limits, media, retries and every time in an answer or a webhook follow it. The log's `at` does not: it stays real time.
"""

import asyncio
import time


class Clock:
    """Steady from its making on, whatever happens to the machine's own clock."""

    def __init__(self) -> None:
        self._origin = time.time_ns() // 1_000_000 - time.monotonic_ns() // 1_000_000
        self._moved = asyncio.Event()
        self.offset_ms = 0

    def now(self) -> int:
        return self._origin + time.monotonic_ns() // 1_000_000 + self.offset_ms

    def seconds(self) -> int:
        """Whole Unix seconds, as Meta's statuses and Telegram's dates count."""
        return self.now() // 1000

    def set_offset(self, milliseconds: int) -> None:
        """Whoever sleeps looks again."""
        self.offset_ms = milliseconds
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def sleep_until(self, moment: float) -> None:
        while (rest := moment - self.now()) > 0:
            try:
                async with asyncio.timeout(rest / 1000):
                    await self._moved.wait()
            except TimeoutError:
                continue
