"""Checks times that others give us: when a message may be sent, and when a provider or a client says that something happened.

Enters: `not_before` and `expires_at` of a message in Unix milliseconds, None or 0 if not set; the provider's time of an event and our time
of its arrival. Leaves: a sentence that says what is wrong, or None; whether a time can be right. Guaranteed: a time in another unit
(seconds, microseconds, nanoseconds) never counts as milliseconds. Pure.
"""

from collections.abc import Callable

DAY_MS = 86_400_000
# Providers repeat a webhook for 7 days at most. A time further back is a wrong unit, a wrong clock, or a lie.
OLDEST_REPORT_MS = 30 * DAY_MS
CLOCK_SKEW_MS = 5 * 60_000  # so far may another clock be ahead of ours; a later time is taken as the time of arrival
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


def is_plausible(provider_at: int, received_at: int) -> bool:
    """Whether an event that arrived at `received_at` can have happened at `provider_at`; both are Unix milliseconds. A time in seconds, or
    one of 1970 or of next year, cannot be right."""
    return received_at - OLDEST_REPORT_MS <= provider_at <= received_at + CLOCK_SKEW_MS


def happened_at(provider_at: int, received_at: int) -> int:
    """When an event happened: as the provider says, never after it arrived, and when it arrived if the provider's time cannot be right."""
    return min(provider_at, received_at) if is_plausible(provider_at, received_at) else received_at


def _outside(value: int, now: int, ahead_ms: int) -> str | None:
    if _EARLIEST <= value <= now + ahead_ms:
        return None
    where = "before the year 2001" if value < _EARLIEST else f"more than {ahead_ms / DAY_MS:g} days ahead"
    unit = next((unit for unit, read in _UNITS.items() if _EARLIEST <= read(value) <= now + ahead_ms), None)
    looks = "" if unit is None else f"; it looks like {unit}"
    return f"{where}: give the time in Unix milliseconds (now is {now}){looks}"
