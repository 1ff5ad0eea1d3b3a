"""What ClickHouse derives from the facts, made again: latest deliveries, attempts, and roll-ups. For `chat4all replay --rollups`.

Enters: a range of whole hours. Leaves: these relations as their views make them of the facts. Guaranteed: when it ends in the middle, a
repetition makes it right. It deletes and inserts, so nothing may be inserted into the facts meanwhile: the caller makes sure that stage
analyse does not run. A range must not begin before the facts that are kept: the totals of older hours would be lost.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client

from sinks.check_look import HOUR_MS, CheckedRange, Look, moment
from sinks.check_roll_ups import LAST_MINUTE, ROLL_UPS, RollUp, definition
from sinks.clickhouse import answered

DAY_MS = 24 * HOUR_MS
# A repeated insert of the same rows is wanted here: what was there before is deleted.
_SETTINGS = {"mutations_sync": 2, "insert_deduplicate": 0, "max_partitions_per_insert_block": 0, "async_insert": 0}
_ROWS = (
    RollUp("deliveries", "deliveries_from_events", "delivery_events", "accepted_at"),
    RollUp("attempts", "attempts_from_events", "delivery_events", "accepted_at"),
)


@dataclass(frozen=True, slots=True)
class Hours:
    """Whole hours, [since, until) in Unix milliseconds."""

    since: int
    until: int

    @staticmethod
    def around(since: int, until: int) -> "Hours":
        """The hours that contain the range."""
        return Hours(
            max(0, since // HOUR_MS * HOUR_MS), min(-(-until // HOUR_MS) * HOUR_MS, LAST_MINUTE // HOUR_MS * HOUR_MS)
        )

    def days(self) -> Iterator["Hours"]:
        """Parts of a day at most, which bound the memory of one statement."""
        first = self.since
        while first < self.until:
            following = min((first // DAY_MS + 1) * DAY_MS, self.until)
            yield Hours(first, following)
            first = following


def hours_of_facts(client: Client, hours: Hours) -> Hours:
    """The part of the range in which there are facts or totals, so that an open range is short. Blocks."""
    bounds = [
        f"select min(toUnixTimestamp64Milli({time})), max(toUnixTimestamp64Milli({time})) from"  # noqa: S608  # our own names
        f" (select {expression} as {time} from {relation})"
        f" where {time} >= {moment(hours.since)} and {time} < {moment(hours.until)}"
        for relation, time, expression in (
            ("delivery_events", "at", "accepted_at"),
            ("accepted_deliveries", "at", "accepted_at"),
            ("deliveries_by_hour", "at", "toDateTime64(hour, 3, 'UTC')"),
        )
    ]
    found = [answered(lambda sql=sql: client.query(sql).result_rows[0]) for sql in bounds]  # type: ignore[misc]  # mypy cannot type a default in a lambda
    pairs = [(int(low), int(high)) for low, high in found if high]
    if not pairs:
        return Hours(hours.since, hours.since)
    return Hours.around(
        max(hours.since, min(low for low, _ in pairs)), min(hours.until, max(high for _, high in pairs) + 1)
    )


def make_again(look: Look, client: Client, hours: Hours) -> None:
    """Makes all derived relations of these hours again, a day at a time. Blocks, for minutes on large ranges. Raises Unavailable,
    NotMigrated, or UnknownView before anything is deleted."""
    for each in (*_ROWS, *ROLL_UPS):
        definition(look, each, "1")
    for day in hours.days():
        within = CheckedRange(day.since, day.until).in_clickhouse()
        for each in (*_ROWS, *ROLL_UPS):
            since, until = moment(day.since), moment(day.until)
            if each in _ROWS:
                condition = f"accepted_at >= {since} and accepted_at < {until}"
            else:
                condition = f"{each.time} >= toDateTime({since}) and {each.time} < toDateTime({until})"
            for statement in (
                f"alter table {each.relation} delete where {condition}",  # our own names
                f"insert into {each.relation} {definition(look, each, within)}",
            ):
                answered(lambda sql=statement: client.command(sql, settings=_SETTINGS))  # type: ignore[misc]  # as above
