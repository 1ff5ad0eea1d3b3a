"""When Python's garbage collector looks for reference cycles: rarely, but at fixed intervals.

Enters: nothing. Leaves: a process whose decisions are rarely interrupted, and whose garbage is bounded. Guaranteed while `collect_garbage`
runs: young garbage is freed after 10 s, and any garbage after a minute, or later where a full collection takes so long that it would use
more than a thousandth of the time.
"""

import asyncio
import gc
import sys
import time

YOUNG_SECONDS = 10.0  # a collection of new objects takes 2 ms for 90,000 objects
ALL_SECONDS = 60.0  # a full collection takes 160 ms for 3 million objects
SHARE = 0.001  # of the time, for full collections


def favour_long_decisions() -> None:
    """Makes Python look for cycles rarely: a turn makes thousands of records and drops them without a cycle. Objects that exist now are
    never looked at again. A decision is also interrupted less often by the threads that fetch and commit. Measured together: 3 of 19
    microseconds of CPU a record. Changes the whole process; blocks for one full collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
    sys.setswitchinterval(0.02)


async def collect_garbage(young_seconds: float = YOUNG_SECONDS, all_seconds: float = ALL_SECONDS) -> None:
    """Collects at fixed intervals until it is cancelled. Each collection blocks the event loop. The thresholds alone are not enough: they
    count objects, whatever their size, and a client that leaves one cycle with a whole batch for each request would not reach them in
    hours."""
    all_at = time.monotonic() + all_seconds
    while True:
        await asyncio.sleep(young_seconds)
        began = time.monotonic()
        if began < all_at:
            gc.collect(1)
        else:
            gc.collect()
            all_at = began + max(all_seconds, (time.monotonic() - began) / SHARE)
