"""Checksums of both databases before and after a replay: a replay of what is there changes none of them.

Enters: a CheckedRange. Leaves: relation -> (rows, checksum). Times of insertion and names of batches are left out: they say when, not what.
Only reads. While messages flow, a checksum changes on its own.
"""

from collections.abc import Mapping

from sinks.check_look import IN_POSTGRES, CheckedRange, Look

_BY_TIME = ("messages", "deliveries", "delivery_events", "message_states")
_WHOLE = ("cursors", "conversations")
_FACTS = ("delivery_events", "accepted_deliveries", "inbound_events", "attempts")
_ROLL_UPS = {"deliveries_by_minute": "minute", "deliveries_by_hour": "hour"}
_TOTALS = "pending, sent, delivered, read, failed, expired, cancelled, suppressed, attempts, resends, throttles"

Sums = Mapping[str, tuple[int, int]]


def postgres_sums(look: Look, scope: CheckedRange) -> Sums:
    """The relations of PostgreSQL. Blocks while it reads all rows of the scope."""
    of_tenant = "(%(tenant)s::text is null or tenant_id = %(tenant)s)"
    conditions = dict.fromkeys(_BY_TIME, IN_POSTGRES) | dict.fromkeys(_WHOLE, of_tenant)
    found = {}
    for relation, condition in conditions.items():
        row = "md5((to_jsonb(r) - 'archived_at')::text)"
        sql = f"select count(*), coalesce(sum(('x' || substr({row}, 1, 8))::bit(32)::bigint), 0) from {relation} r where {condition}"  # noqa: S608  # our own names
        [(number, sum_)] = look.postgres(sql, scope.values())
        found[relation] = (int(number), int(sum_))
    return found


def clickhouse_sums(look: Look, scope: CheckedRange) -> Sums:
    """The relations of ClickHouse: rows of the facts, deliveries with FINAL, and the counts of the roll-ups."""
    where = scope.in_clickhouse()
    hashed = "count(), sum(cityHash64(toString(tuple(*))))"  # of a text: the hash of a null is null
    names = {name: "inserted_at" if name == "attempts" else "batch, inserted_at" for name in _FACTS}
    names["deliveries final"] = "batch, inserted_at"
    queries = {
        name.removesuffix(" final"): f"select {hashed} from (select * except ({without}) from {name} where {where})"  # noqa: S608  # our own names
        for name, without in names.items()
    }
    for name, time in _ROLL_UPS.items():
        sums = ", ".join(f"sum({each.strip()})" for each in ("accepted", *_TOTALS.split(",")))
        totals = f"select tenant_id, channel, account, {time}, {sums} from {name} group by tenant_id, channel, account, {time}"  # noqa: S608  # the same
        queries[name] = f"select {hashed} from ({totals})"  # noqa: S608  # the same
    found = {}
    for name, sql in queries.items():
        [(number, sum_)] = look.clickhouse(sql)
        found[name] = (int(number), int(sum_))
    return found
