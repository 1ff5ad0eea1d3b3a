"""The clock of a simulated provider: real time plus an offset that tests push forward.

What enters: an offset. What leaves: the provider's current time, Unix milliseconds. Guaranteed: it never runs backwards by itself. Windows,
rate limits, media, retries and every time in an answer or a webhook follow it. The field `at` of the log does not: it is real time.
"""

import asyncio
import time


class Clock:
    """Monotonic after construction: a change of the machine's clock has no effect. Lives in one event loop."""

    def __init__(self) -> None:
        self._origin = time.time_ns() // 1_000_000 - time.monotonic_ns() // 1_000_000
        self._moved = asyncio.Event()
        self.offset_ms = 0

    def now(self) -> int:
        return self._origin + time.monotonic_ns() // 1_000_000 + self.offset_ms

    def seconds(self) -> int:
        """Whole Unix seconds, the unit of Meta's statuses and Telegram's dates."""
        return self.now() // 1000

    def set_offset(self, milliseconds: int) -> None:
        """Sets the offset to real time. Every pending `sleep_until` checks its moment again."""
        self.offset_ms = milliseconds
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def sleep_until(self, moment: float) -> None:
        """Waits until the provider's clock shows `moment`, Unix milliseconds."""
        while (rest := moment - self.now()) > 0:
            try:
                async with asyncio.timeout(rest / 1000):
                    await self._moved.wait()
            except TimeoutError:
                continue
