"""Retention in ClickHouse: whole days are dropped, single tenants' rows deleted, and the time to live set for what comes.

Enters: a client, retention, and the present time. Leaves: a sentence for each change. Guaranteed: a repetition changes nothing more. Counts
by minute and hour stay for as long as their DDL says: they name nobody. Blocks; raises Unavailable or NotMigrated.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from clickhouse_connect.driver.client import Client

from schemas.retention_days import Retention
from sinks.clickhouse import answered

# Relation -> the column of its day.
RELATIONS = {
    "delivery_events": "accepted_at",
    "deliveries": "accepted_at",
    "attempts": "accepted_at",
    "accepted_deliveries": "accepted_at",
    "inbound_events": "accepted_at",
    "dead_letter_events": "refused_at",
}
_FIRST_DAY = "20200101"  # this partition has the times before it too; such rows go by their time to live


def retain(client: Client, retention: Retention, now: datetime, *, apply: bool) -> list[str]:
    """What is, or with `apply` was, deleted and set."""
    return [
        sentence
        for relation, column in RELATIONS.items()
        for sentence in (
            *_drop_days(client, relation, retention.longest, now, apply=apply),
            *_delete_tenants(client, relation, column, retention, now, apply=apply),
            *_set_ttl(client, relation, retention.longest, apply=apply),
        )
    ]


def _drop_days(client: Client, relation: str, days: int | None, now: datetime, *, apply: bool) -> Iterator[str]:
    if days is None:
        return
    before = f"{now - timedelta(days=days):%Y%m%d}"
    found = answered(
        lambda: client.query(
            "select partition, sum(rows) from system.parts where database = currentDatabase() and table = {relation:String} and active"
            " and partition > {first:String} and partition < {before:String} group by partition order by partition",
            parameters={"relation": relation, "first": _FIRST_DAY, "before": before},
        )
    ).result_rows
    for day, rows in found:
        if apply:
            answered(lambda day=day: client.command(f"alter table {relation} drop partition {int(day)}"))  # type: ignore[misc]  # mypy cannot type a default in a lambda
        yield f"clickhouse {relation}: day {day}, {rows} rows"


def _delete_tenants(
    client: Client, relation: str, column: str, retention: Retention, now: datetime, *, apply: bool
) -> Iterator[str]:
    """Rows of tenants whose retention is shorter than the longest."""
    asked = f"select distinct tenant_id from {relation} order by 1"  # noqa: S608  # names of this module
    for (tenant,) in answered(lambda: client.query(asked)).result_rows:
        days = retention.days_of(tenant)
        if days is None or days == retention.longest:
            continue
        before = int((now - timedelta(days=days)).timestamp() * 1000)
        old = f"tenant_id = {{tenant:String}} and {column} >= '2000-01-01' and {column} < fromUnixTimestamp64Milli({before})"
        given = {"tenant": tenant}
        count = answered(
            lambda old=old, given=given: client.query(f"select count() from {relation} where {old}", parameters=given)  # type: ignore[misc]  # noqa: S608  # the same
        ).result_rows[0][0]
        if not count:
            continue
        if apply:
            answered(
                lambda old=old, given=given: client.command(  # type: ignore[misc]  # the same
                    f"alter table {relation} delete where {old}", parameters=given, settings={"mutations_sync": 2}
                )
            )
        yield f"clickhouse {relation}: tenant {tenant}, {count} rows"


def _set_ttl(client: Client, relation: str, days: int | None, *, apply: bool) -> Iterator[str]:
    if days is None:
        return
    engine = str(
        answered(
            lambda: client.query(
                "select engine_full from system.tables where database = currentDatabase() and name = {relation:String}",
                parameters={"relation": relation},
            )
        ).result_rows[0][0]
    )
    if f"toIntervalDay({days})" in engine:
        return
    if apply:
        answered(
            lambda: client.command(f"alter table {relation} modify ttl toDateTime(inserted_at) + interval {days} day")
        )
    yield f"clickhouse {relation}: time to live {days} days from the insert"
