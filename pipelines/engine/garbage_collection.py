"""When Python looks for objects that refer to each other and to which nothing else refers: seldom, but for certain.

Enters: nothing. Leaves: a process whose decisions are seldom interrupted, and whose garbage is bounded. Guaranteed while
`collect_garbage` runs: what became garbage young is gone after 10 s, and anything after a minute, or later where looking at everything
takes so long that it would cost more than a thousandth of the time.
"""

import asyncio
import gc
import sys
import time

YOUNG_SECONDS = 10.0  # a look at what is new takes 2 ms for 90,000 objects
ALL_SECONDS = 60.0  # a look at everything takes 160 ms for 3 million objects
SHARE = 0.001  # of the time that looks at everything may take


def favour_long_decisions() -> None:
    """Makes Python look for cycles seldom: a turn makes thousands of records and drops them without one. What was imported until
    now is never looked at again. And a decision is interrupted less often by the threads that fetch and commit. Measured together:
    3 of 19 microseconds of CPU a record."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
    sys.setswitchinterval(0.02)


async def collect_garbage(young_seconds: float = YOUNG_SECONDS, all_seconds: float = ALL_SECONDS) -> None:
    """Looks by the clock, until it is cancelled. The thresholds alone count objects, however large, and only while they become more:
    a client that leaves one cycle with a whole batch in it for each request would not reach them in hours."""
    all_at = time.monotonic() + all_seconds
    while True:
        await asyncio.sleep(young_seconds)
        began = time.monotonic()
        if began < all_at:
            gc.collect(1)
        else:
            gc.collect()
            all_at = began + max(all_seconds, (time.monotonic() - began) / SHARE)
