"""Times as a person writes them: `-24h` and `today`, or a time in UTC.

Enters: a text, and the present. Leaves: a time in UTC. Guaranteed: what it cannot read raises WrongTime with one sentence that says what
can be written. Reads no clock.
"""

import re
from datetime import UTC, datetime, timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_RELATIVE = re.compile(r"-(\d{1,9})([smhdw])")
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2299, 12, 31, tzinfo=UTC)  # ClickHouse holds these
FORMS = "-90s, -15m, -24h, -7d, now, today, 2026-11-02, 2026-11-02T10:30 or 2026-11-02T10:30:00Z (UTC)"


class WrongTime(Exception):
    """A text that is no time."""


def moment(text: str, now: datetime) -> datetime:
    """The time that a text means, in UTC. A time without an offset is in UTC; `today` is the day's begin in UTC. Raises WrongTime."""
    word = text.strip()
    if word == "now":
        return now
    if word == "today":
        return now.replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        if back := _RELATIVE.fullmatch(word):
            found = now - timedelta(**{_UNITS[back[2]]: int(back[1])})
        else:
            given = datetime.fromisoformat(word)
            found = given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)
    except (ValueError, OverflowError):
        raise WrongTime(f"{text!r} is no time: write {FORMS}") from None
    if not _EARLIEST <= found <= _LATEST:
        raise WrongTime(f"{text!r} is outside the years 1970 to 2299")
    return found
