"""How long the reports take over ten million transitions, and how near the roll-ups' percentiles are to the exact ones.

Enters: a ClickHouse with our relations. `fill` makes the facts there, by SQL: 30 days, three tenants, four channels; the materialized views
make the rest as they do for stage analyse. Leaves: milliseconds of each report. A report without a row is an error: nothing was measured.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from statistics import quantiles
from typing import Any

from clickhouse_connect.driver.client import Client

from sinks.report_catalog import reports
from sinks.report_queries import Question, call

DAYS = 30
SINCE = datetime(2026, 9, 1, tzinfo=UTC)
UNTIL = SINCE + timedelta(days=DAYS)
AT_ONCE = 250_000  # deliveries of one insert, so that its blocks fit into memory

# One delivery in 50 is refused, 3 in 100 are throttled once; Telegram ends at SENT, Instagram reports no DELIVERED.
_FACTS = """
insert into delivery_events
    (tenant_id, delivery_id, message_id, conversation_id, home_partition, seq, channel, account, version, previous_status, status, cause,
     anomaly, occurred_at, observed_at, requested_at, accepted_at, dispatched_at, sent_at, delivered_at, read_at, failed_at,
     delivered_implied, attempts, resends, reason_code, kind, attempt, reported, throttled, retry_at, throttles, ready_at,
     first_dispatched_at, batch)
with
    ['PENDING', 'SENT', 'DELIVERED', 'READ'] as steps,
    if(bucket < 2, ['PENDING', 'FAILED'], if(bucket < 5, ['PENDING', 'PENDING', 'SENT', 'DELIVERED'],
        multiIf(channel = 'telegram', ['PENDING', 'SENT'], channel = 'instagram', ['PENDING', 'SENT', 'READ'], steps))) as path,
    if(bucket >= 2 and bucket < 5, 4000, 0) + 20 + wait % if(wait % 100 = 0, 6000, 180) as to_sent,
    accepted + toIntervalMillisecond(to_sent) as sent,
    sent + toIntervalMillisecond(100 + cityHash64(number, 2) % 5000) as arrived,
    arrived + toIntervalMillisecond(1000 + cityHash64(number, 3) % 600000) as seen,
    path[version] as now_is,
    if(version = 1, 'PENDING', path[version - 1]) as was,
    has(['SENT', 'DELIVERED', 'READ'], now_is) as is_sent,
    multiIf(version = 1, 'CREATED', now_is = 'FAILED', 'REJECTED', now_is = 'PENDING', 'RETRY_LATER',
            now_is = 'SENT', 'ACCEPTED', 'RECEIPT') as why,
    multiIf(version = 1, accepted, why = 'RECEIPT', if(now_is = 'READ', seen, arrived), now_is = 'PENDING',
            accepted + toIntervalMillisecond(60), sent) as at
select
    ['acme', 'default', 'globex'][1 + cityHash64(number, 4) % 3], hex(cityHash64(number, 5)) || hex(number), 'm' || toString(number),
    'c' || toString(intDiv(number, 10)), number % 12, number % 10 + 1, channel, channel || '-' || toString(number % 2), version,
    was, now_is, why, '', at, at + toIntervalMillisecond(20), accepted - toIntervalMillisecond(3), accepted,
    if(version = 1, null, accepted + toIntervalMillisecond(10)), if(is_sent, sent, null),
    if(now_is = 'DELIVERED' or (now_is = 'READ' and channel != 'instagram'), arrived, null), if(now_is = 'READ', seen, null),
    if(now_is = 'FAILED', sent, null), now_is = 'READ' and channel = 'instagram', if(version = 1, 0, 1), 0,
    if(now_is = 'FAILED', ['131026', '131047', '470'][1 + number % 3], ''), 'text', if(why in ('CREATED', 'RECEIPT'), 0, 1), now_is,
    why = 'RETRY_LATER', if(why = 'RETRY_LATER', accepted + toIntervalMillisecond(4000), null), bucket >= 2 and bucket < 5 and version > 1,
    accepted + toIntervalMillisecond(4), if(version = 1, null, accepted + toIntervalMillisecond(10)), {batch:UInt64}
from (
    select
        number, cityHash64(number, 1) % 100 as bucket, cityHash64(number, 6) as wait,
        ['whatsapp', 'whatsapp', 'telegram', 'instagram', 'internal'][1 + cityHash64(number, 7) % 5] as channel,
        toDateTime64({since:String}, 3, 'UTC') + toIntervalMillisecond(toInt64(number * {step:Float64})) as accepted,
        arrayJoin(range(1, length(multiIf(bucket < 2, [1, 2], bucket < 5, [1, 2, 3, 4], channel = 'telegram', [1, 2],
                                          channel = 'instagram', [1, 2, 3], [1, 2, 3, 4])) + 1)) as version
    from numbers({first:UInt64}, {count:UInt64})
)
settings max_partitions_per_insert_block = 0
"""
_ACCEPTED = """
insert into accepted_deliveries
    (tenant_id, channel, account, delivery_id, message_id, conversation_id, home_partition, seq, kind, campaign, fallback_of, accepted_at,
     batch)
select tenant_id, channel, account, delivery_id, message_id, conversation_id, home_partition, seq, kind,
       ['', 'spring', 'black-friday'][1 + cityHash64(message_id) % 3], '', accepted_at, batch
from delivery_events
where version = 1 and accepted_at >= {since:DateTime64(3, 'UTC')} and accepted_at < {until:DateTime64(3, 'UTC')}
settings max_partitions_per_insert_block = 0
"""
_INBOUND = """
insert into inbound_events
    (tenant_id, channel, account, message_id, conversation_id, home_partition, seq, kind, received_at, accepted_at, batch)
select tenant_id, channel, account, 'in-' || message_id, conversation_id, home_partition, seq, 'text',
       accepted_at + toIntervalMillisecond(500), accepted_at + toIntervalMillisecond(520), batch
from delivery_events
where version = 1 and cityHash64(message_id) % 5 = 0 and accepted_at >= {since:DateTime64(3, 'UTC')}
  and accepted_at < {until:DateTime64(3, 'UTC')}
settings max_partitions_per_insert_block = 0
"""
_DEAD = """
insert into dead_letter_events
    (tenant_id, dead_letter_id, stage, cause, source_topic, channel, source_partition, source_offset, refused_at, value_bytes)
select 'default', 'dead-' || toString(number), ['route', 'match'][1 + number % 2], ['unknown_user', 'orphan_receipt'][1 + number % 2],
       ['messages', 'receipts'][1 + number % 2], '', 0, number,
       toDateTime64({since:String}, 3, 'UTC') + toIntervalSecond(number * 25), 300
from numbers(100000)
"""


def fill(client: Client, events: int) -> int:
    """Makes at least `events` transitions of deliveries accepted in [SINCE, UNTIL), and what belongs to them. Returns how many. Blocks for
    minutes."""
    deliveries = int(events / 3.38)  # a delivery has 3.39 transitions on average
    since = SINCE.strftime("%Y-%m-%d %H:%M:%S")
    step = DAYS * 86_400_000 / deliveries
    for number, first in enumerate(range(0, deliveries, AT_ONCE)):
        count = min(AT_ONCE, deliveries - first)
        client.command(
            _FACTS, parameters={"since": since, "step": step, "first": first, "count": count, "batch": number + 1}
        )
    for day in range(DAYS):
        begin = SINCE + timedelta(days=day)
        span = {"since": begin, "until": begin + timedelta(days=1)}
        client.command(_ACCEPTED, parameters=span)
        client.command(_INBOUND, parameters=span)
    client.command(_DEAD, parameters={"since": since})
    made = int(client.query("select count() from delivery_events").result_rows[0][0])
    if made < events:
        raise SystemExit(f"wrong work, not measured: {made:,} of {events:,} transitions were made")
    return made


# Reports of what these facts do not hold: no fallback, no unknown outcome, no suppression, no minute out of balance.
EMPTY = {"audit_minutes", "fallback", "suppressed", "unknown"}


def milliseconds(client: Client, sql: str, times: int, *, may_be_empty: bool = False) -> list[float]:
    """How long the query took, from the question to the last row, `times` times in order."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        rows = client.query(sql).result_rows
        found.append((time.perf_counter() - began) * 1000)
        if not rows and not may_be_empty:
            raise SystemExit(f"nothing was measured: no row from {sql[:200]}")
    return found


def questions() -> Mapping[str, str]:
    """Report -> the SQL that asks it about all tenants, channels and days."""
    question = Question(SINCE, UNTIL)
    return {name: call(report, question) for name, report in reports().items()}


def p95(values: list[float]) -> float:
    return quantiles(values, n=20, method="inclusive")[-1]


def percentile_error(client: Client) -> Mapping[str, Any]:
    """The largest relative difference of p50, p95 and p99 of accept to sent between the roll-up and all values, and how many these are."""
    exact = client.query(
        "select count(), quantilesExact(0.5, 0.95, 0.99)(greatest(0, dateDiff('millisecond', accepted_at, assumeNotNull(sent_at))))"
        " from delivery_events where sent_at is not null and previous_status = 'PENDING' and status = 'SENT'"
    ).result_rows[0]
    rolled = client.query(
        "select quantilesTDigestMerge(0.5, 0.95, 0.99)(accept_to_sent_ms) from deliveries_by_hour"
    ).result_rows[0][0]
    errors = [abs(one - other) / other for one, other in zip(rolled, exact[1], strict=True)]
    return {"values": int(exact[0]), "error": max(errors)}
