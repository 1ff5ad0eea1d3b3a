"""The roll-ups of ClickHouse against the facts: each minute and hour is computed again with the text of its own materialized view.

Enters: a CheckedRange. Leaves: checks. All counts, sums, maxima and counts within limits are compared, exactly; the percentiles (TDigest
states) are not, because they depend on the order of the rows.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sinks.check_look import HOUR_MS, CheckedRange, Look, literal, moment
from sinks.check_result import Difference, Found, merged

LAST_MINUTE = 4_294_967_295_000  # the end of ClickHouse's DateTime, in Unix milliseconds
_SOURCE = re.compile(r" FROM (?:\S+\.)?(delivery_events|accepted_deliveries)(?: AS e)?(?= |$)")
_STARTS = {"minute": "toStartOfMinute", "hour": "toStartOfHour"}
_MERGED = re.compile(r"SimpleAggregateFunction\((\w+),")


class UnknownView(Exception):
    """The materialized view of a roll-up does not read as this release expects. The sentence names it."""


@dataclass(frozen=True, slots=True)
class RollUp:
    """One roll-up: its relation, its materialized view, the relation that this reads, and its column of time."""

    relation: str
    view: str
    source: str
    time: str


ROLL_UPS = (
    RollUp("deliveries_by_minute", "deliveries_by_minute_from_events", "delivery_events", "minute"),
    RollUp("deliveries_by_hour", "deliveries_by_hour_from_events", "delivery_events", "hour"),
    RollUp("accepted_by_minute", "accepted_by_minute_from_deliveries", "accepted_deliveries", "minute"),
)


def definition(look: Look, roll_up: RollUp, condition: str) -> str:
    """The select of the roll-up's view over those rows of its source that meet the condition. Raises UnknownView."""
    found = list(
        look.clickhouse(
            f"select as_select from system.tables where database = currentDatabase() and name = {literal(roll_up.view)}"  # noqa: S608  # our own names
        )
    )
    rows = f" FROM (select * from {roll_up.source} where {condition}) AS e"  # noqa: S608  # the same
    text, replaced = _SOURCE.subn(lambda _: rows, found[0][0] if found else "")
    if replaced != 1:
        raise UnknownView(
            f"the view {roll_up.view} of ClickHouse is missing or not ours: run `python -m sinks.migrate`"
        )
    return str(text)


@dataclass(frozen=True, slots=True)
class SameTotals:
    """A check: a roll-up holds what its view makes of the facts. A block reaches the facts a moment before the roll-up, so a difference
    counts when it stays exactly the same in three looks."""

    roll_up: RollUp
    scope: CheckedRange
    is_exact: bool = False
    looks: int = 2

    @property
    def name(self) -> str:
        return self.roll_up.relation

    def first(self, look: Look) -> Found:
        """Compares all minutes or hours of the scope."""
        found, number = Found(), 0
        for each in self._compared(look):
            number += 1
            if each is not None:
                found.add(each)
        found.compared = (
            f"{number:,} {self.roll_up.time}s of each tenant, channel and account against {self.roll_up.source}"
        )
        return found

    def again(self, look: Look, before: Sequence[Difference]) -> list[Difference]:
        """Those that are still there, and still the same."""
        wanted = {each.key: each.said for each in before}
        times = sorted({each.key[-1] for each in before})
        found = [each for each in self._compared(look, times) if each is not None]
        return [each for each in found if wanted.get(each.key) == each.said]

    def _compared(self, look: Look, times: Sequence[str] = ()) -> Iterator[Difference | None]:
        keys, totals = self._columns(look)
        names = [name for name, _ in totals]
        raw, kept = self._streams(look, keys, totals, times)
        for key, lefts, rights in merged(raw, kept):
            left, right = (side[0] if side else None for side in (lefts, rights))
            wrong = [
                f"{name} {_shown(right, n)} instead of {_shown(left, n)}"
                for n, name in enumerate(names)
                if _shown(left, n) != _shown(right, n)
            ]
            yield Difference(key, ", ".join(wrong)) if wrong else None

    def _columns(self, look: Look) -> tuple[list[str], list[tuple[str, str]]]:
        """The columns of the key, time last, and (name, function) of those that are compared."""
        table = literal(self.roll_up.relation)
        sql = f"select name, type from system.columns where database = currentDatabase() and table = {table} order by position"  # noqa: S608  # our own names
        rows = look.clickhouse(sql)
        keys, totals = [], []
        for name, type_ in rows:
            if simple := _MERGED.match(type_):
                totals.append((name, simple[1]))
            elif "AggregateFunction" not in type_:
                keys.append(name)
        return keys, totals

    def _streams(
        self, look: Look, keys: list[str], totals: list[tuple[str, str]], times: Sequence[str]
    ) -> list[Iterator[tuple[Any, Any]]]:
        """What the view makes of the facts, and what the roll-up holds; with `times`, of these minutes or hours only."""
        time, relation = self.roll_up.time, self.roll_up.relation
        within = CheckedRange(max(0, _hour(self.scope.since)), min(_hour(self.scope.until + HOUR_MS - 1), LAST_MINUTE))
        chosen = f" in ({', '.join(map(literal, times))})"
        tenant = "" if self.scope.tenant is None else f" and tenant_id = {literal(self.scope.tenant)}"
        started = f" and toString({_STARTS[time]}(accepted_at)){chosen}" if times else ""
        view = definition(look, self.roll_up, f"{within.in_clickhouse()}{tenant}{started}")
        labels = [f"toString({name}) as {name}_" for name in keys]
        order = ", ".join(f"{name}_" for name in keys)
        plain = ", ".join([*labels, *(_text(name, function) for name, function in totals)])
        summed = ", ".join([*labels, *(_text(f"{function}({name})", function) for name, function in totals)])
        between = (
            f"{time} >= toDateTime({moment(within.since)}) and {time} < toDateTime({moment(within.until)}){tenant}"
        )
        only = f" and toString({time}){chosen}" if times else ""
        made = f"select {plain} from ({view}) order by {order}"  # noqa: S608  # our own names
        kept = f"select {summed} from {relation} where {between}{only} group by {', '.join(keys)} order by {order}"  # noqa: S608  # the same
        return [self._keyed(look.clickhouse(sql), len(keys)) for sql in (made, kept)]

    @staticmethod
    def _keyed(rows: Iterator[tuple[Any, ...]], size: int) -> Iterator[tuple[Any, Any]]:
        for row in rows:
            yield row[:size], row[size:]


def _text(expression: str, function: str) -> str:
    return f"toString(mapSort({expression}))" if function == "sumMap" else f"toString({expression})"


def _shown(totals: Sequence[str] | None, n: int) -> str:
    """A total as text; a missing row is one of zeros."""
    return "0" if totals is None or totals[n] == "{}" else totals[n]


def _hour(at: int) -> int:
    return at // HOUR_MS * HOUR_MS
