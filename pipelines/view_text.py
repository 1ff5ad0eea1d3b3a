"""Rows, times and numbers as text for a person: for the pages of the views and for the terminal.

In: plain data of a view. Out: text, not escaped. Times are Unix milliseconds and are shown in UTC. Pure.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

_TIME_NAMES = frozenset({"at", "not_before", "since", "until", "due", "kept_from"})
_MILLISECONDS = range(10**11, 10**14)  # from 1973 to 5138: a smaller or larger number is no time


def utc(milliseconds: Any) -> str:
    """A time as text, in UTC; empty for what is no time."""
    if type(milliseconds) is not int or milliseconds not in _MILLISECONDS:
        return ""
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}.{milliseconds % 1000:03d} UTC"


def fields(row: Any, path: str = "") -> list[tuple[str, Any, str]]:
    """A row as lines: path of the field, value, and the value as a time if the field holds one."""
    if isinstance(row, Mapping) and row:
        return [line for name, each in row.items() for line in fields(each, f"{path}.{name}" if path else str(name))]
    if isinstance(row, list | tuple) and any(isinstance(each, Mapping | list | tuple) for each in row):
        return [line for n, each in enumerate(row) for line in fields(each, f"{path}[{n}]")]
    if isinstance(row, list | tuple):
        row = ", ".join(map(_plain, row))
    name = path.rpartition(".")[2]
    time = utc(row) if name.endswith("_at") or name in _TIME_NAMES else ""
    return [(path, _plain(row), time)]


def steps(delivery: dict[str, Any]) -> list[tuple[str, int, int | None]]:
    """The steps of a delivery in the order of their times: name, time, milliseconds since the step before."""
    names = ("requested", "accepted", "ready", "dispatched", "sent", "delivered", "read", "failed", "stalled")
    found = sorted(
        ((at, rank, name) for rank, name in enumerate(names) if (at := delivery.get(f"{name}_at")) is not None)
    )
    befores = [None, *(at for at, _, _ in found)]
    return [(name, at, None if was is None else at - was) for (at, _, name), was in zip(found, befores, strict=False)]


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def quoted(text: str) -> str:
    """A key or an id as one segment of a path."""
    return quote(text, safe="")


def grouped(value: Any) -> str:
    """A number with its thousands; `unknown` for None."""
    return f"{value:,}" if type(value) is int else "unknown" if value is None else str(value)


def size(value: float) -> str:
    """Bytes with the unit that fits."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1000
    raise AssertionError("not reached")


def duration(milliseconds: int) -> str:
    """A time span, with the unit that fits."""
    for bound, unit, divisor in (
        (1000, "ms", 1),
        (60_000, "s", 1000),
        (3_600_000, "min", 60_000),
        (86_400_000, "h", 3_600_000),
    ):
        if abs(milliseconds) < bound:
            return f"{milliseconds} ms" if divisor == 1 else f"{milliseconds / divisor:.1f} {unit}"
    return f"{milliseconds / 86_400_000:.1f} d"
