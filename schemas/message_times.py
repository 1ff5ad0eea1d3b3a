"""Checks the times of a message: when it may be sent at the earliest and at the latest.

Enters: `not_before` and `expires_at` of a message in Unix milliseconds, None or 0 if not set. Leaves: a sentence that says what is wrong,
or None. Guaranteed: a time in another unit (seconds, microseconds, nanoseconds) never counts as milliseconds. Pure.
"""

from collections.abc import Callable

DAY_MS = 86_400_000
_EARLIEST = 978_307_200_000  # 1 January 2001; a time of today in seconds, read as milliseconds, is in January 1970
# unit -> the same time in milliseconds
_UNITS: dict[str, Callable[[int], int]] = {
    "seconds": lambda value: value * 1000,
    "microseconds": lambda value: value // 1000,
    "nanoseconds": lambda value: value // 1_000_000,
}


def time_contradiction(not_before: int | None, expires_at: int | None, now: int, ahead_ms: int) -> str | None:
    """What is wrong with the times of a message; None if nothing is. `now` is in Unix milliseconds, and the times may be at most `ahead_ms`
    after it."""
    for name, value in (("not_before", not_before), ("expires_at", expires_at)):
        wrong = _outside(value, now, ahead_ms) if value else None
        if wrong is not None:
            return f"{name} is {value}, {wrong}"
    if not_before and expires_at and expires_at <= not_before:
        return f"expires_at {expires_at} is not after not_before {not_before}: the message could never be sent"
    return None


def _outside(value: int, now: int, ahead_ms: int) -> str | None:
    if _EARLIEST <= value <= now + ahead_ms:
        return None
    where = "before the year 2001" if value < _EARLIEST else f"more than {ahead_ms / DAY_MS:g} days ahead"
    unit = next((unit for unit, read in _UNITS.items() if _EARLIEST <= read(value) <= now + ahead_ms), None)
    looks = "" if unit is None else f"; it looks like {unit}"
    return f"{where}: give the time in Unix milliseconds (now is {now}){looks}"
