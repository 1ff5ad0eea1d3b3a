"""The delivery report from ClickHouse.

Enters: a client, and two times. Leaves: plain values, and the SQL of the report. Guaranteed: only reads. All functions block and use the
caller's client in the caller's thread; errors of the driver pass through, so wrap a query in sinks.clickhouse.answered.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from clickhouse_connect.driver.client import Client

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """The rows of a report (column -> value), and the SQL that made them."""

    rows: tuple[Row, ...]
    sql: str


def delivery_report(client: Client, since: datetime, until: datetime, *, by_hour: bool = False) -> Report:
    """Counts and latencies of the deliveries accepted in [since, until), by tenant and channel. `by_hour`: by hour as well, read from
    the hourly totals."""
    view, format_ = (
        ("report_delivery_by_hour", "%Y-%m-%d %H:%M:%S") if by_hour else ("report_delivery", "%Y-%m-%d %H:%M:%S.%f")
    )
    begin, end = (at.astimezone(UTC).strftime(format_)[:23] for at in (since, until))
    sql = f"select * from {view}(since = '{begin}', until = '{end}')"  # noqa: S608  # only a view's name and two formatted times
    return Report(tuple(client.query(sql).named_results()), sql)
