"""The monthly partitions of `messages`, `deliveries`, `delivery_events` and `message_states`: which there must be, and which may go.

Enters: the partitions that there are, retention, and the present time. Leaves: months to drop, and the SQL that makes and drops months.
Guaranteed: a month goes only when each of its rows is older than retention; a row that is in the partition `..._other` moves into its
month when that is made (function create_month of ddl/postgres/0010_partitions.sql). Pure.
"""

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

# In the order in which stage archive writes them, so that locking all of them meets no deadlock.
RELATIONS = ("messages", "delivery_events", "deliveries", "message_states")
AHEAD = 2  # months after the present one that must be there
_LOCK = 4_201_841_043  # an arbitrary number, the same in every release: one maker of months at a time
_NAME = re.compile(r"messages_(\d{4})_(\d{2})")

# This month and the next ones, unless another session is making them.
MAKE_MONTHS = f"""
    select create_month((date_trunc('month', now() at time zone 'UTC') + n * interval '1 month')::date)
      from generate_series(0, {AHEAD}) as n where pg_try_advisory_xact_lock({_LOCK})
"""  # noqa: S608  # numbers of this module
# Months of rows that are in `..._other`, as far as they are plausible.
MONTHS_IN_OTHER = """
    select distinct date_trunc('month', accepted_at at time zone 'UTC')::date
      from (select accepted_at from messages_other union all select accepted_at from deliveries_other
            union all select accepted_at from delivery_events_other) as rows
     where accepted_at >= '2000-01-01' and accepted_at < now() + interval '3 months'
     order by 1
"""
EXISTING = "select relname::text from pg_class where relname ~ '^messages_[0-9]{4}_[0-9]{2}$' and relispartition"


def month_of(partition: str) -> date | None:
    """The month of a partition of `messages` by its name; None for another relation."""
    found = _NAME.fullmatch(partition)
    return date(int(found[1]), int(found[2]), 1) if found and 1 <= int(found[2]) <= 12 else None


def next_month(month: date) -> date:
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


def to_drop(partitions: Iterable[str], days: int | None, now: datetime) -> list[date]:
    """The months, oldest first, that ended `days` ago or longer; none if `days` is None. `now` has a time zone."""
    if days is None:
        return []
    kept_from = (now.astimezone(UTC) - timedelta(days=days)).date()
    months = filter(None, map(month_of, partitions))
    return sorted(month for month in months if next_month(month) <= kept_from)


def drop_month(month: date) -> str:
    """SQL that drops all partitions of a month."""
    return "drop table " + ", ".join(f"{relation}_{month:%Y_%m}" for relation in RELATIONS)


LOCK_ALL = f"lock table {', '.join(RELATIONS)} in access exclusive mode"
