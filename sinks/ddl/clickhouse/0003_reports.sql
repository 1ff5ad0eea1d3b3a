-- Reports are views with parameters: select * from report_delivery(since = '2026-01-01 00:00:00', until = '2026-02-01 00:00:00').
--
-- Both count a delivery where it stands now, so accepted = pending + sent + failed + expired + cancelled + suppressed, where sent means
-- SENT or further and delivered means DELIVERED or further. Percentiles are milliseconds, empty where nothing could be measured.
-- A time that two clocks make negative (a provider's clock has whole seconds) counts as 0.

-- Exact, from the latest state of each delivery accepted in [since, until).
create or replace view report_delivery as
select
    tenant_id,
    channel,
    uniqExact(message_id) as messages,
    count() as accepted,
    countIf(status in ('SENT', 'DELIVERED', 'READ')) as sent,
    countIf(status in ('DELIVERED', 'READ')) as delivered,
    countIf(status = 'READ') as read,
    countIf(status = 'PENDING') as pending,
    countIf(status = 'FAILED') as failed,
    countIf(status = 'EXPIRED') as expired,
    countIf(status = 'CANCELLED') as cancelled,
    countIf(status = 'SUPPRESSED') as suppressed,
    sum(resends) as resends,
    quantileExactOrNullIf(0.5)(to_sent, has_sent) as accept_to_sent_p50_ms,
    quantileExactOrNullIf(0.95)(to_sent, has_sent) as accept_to_sent_p95_ms,
    quantileExactOrNullIf(0.99)(to_sent, has_sent) as accept_to_sent_p99_ms,
    quantileExactOrNullIf(0.5)(to_delivered, has_delivered) as sent_to_delivered_p50_ms,
    quantileExactOrNullIf(0.95)(to_delivered, has_delivered) as sent_to_delivered_p95_ms,
    quantileExactOrNullIf(0.99)(to_delivered, has_delivered) as sent_to_delivered_p99_ms,
    quantileExactOrNullIf(0.5)(to_read, has_read) as delivered_to_read_p50_ms,
    quantileExactOrNullIf(0.95)(to_read, has_read) as delivered_to_read_p95_ms,
    quantileExactOrNullIf(0.99)(to_read, has_read) as delivered_to_read_p99_ms
from (
    select
        tenant_id, channel, message_id, status, resends,
        sent_at is not null as has_sent,
        sent_at is not null and delivered_at is not null and not delivered_implied as has_delivered,
        delivered_at is not null and read_at is not null and not delivered_implied as has_read,
        greatest(0, dateDiff('millisecond', accepted_at, assumeNotNull(sent_at))) as to_sent,
        greatest(0, dateDiff('millisecond', assumeNotNull(sent_at), assumeNotNull(delivered_at))) as to_delivered,
        greatest(0, dateDiff('millisecond', assumeNotNull(delivered_at), assumeNotNull(read_at))) as to_read
    from deliveries final
    where accepted_at >= {since:DateTime64(3, 'UTC')} and accepted_at < {until:DateTime64(3, 'UTC')}
)
group by tenant_id, channel
order by tenant_id, channel;

-- By the hour, from the roll-up: as fast for a year as for a day. The hours that begin in [since, until).
create or replace view report_delivery_by_hour as
select
    * except (to_sent, to_delivered),
    if(isNaN(to_sent[1]), null, to_sent[1]) as accept_to_sent_p50_ms,
    if(isNaN(to_sent[2]), null, to_sent[2]) as accept_to_sent_p95_ms,
    if(isNaN(to_sent[3]), null, to_sent[3]) as accept_to_sent_p99_ms,
    if(isNaN(to_delivered[1]), null, to_delivered[1]) as sent_to_delivered_p50_ms,
    if(isNaN(to_delivered[2]), null, to_delivered[2]) as sent_to_delivered_p95_ms,
    if(isNaN(to_delivered[3]), null, to_delivered[3]) as sent_to_delivered_p99_ms
from (
    select
        tenant_id,
        channel,
        hour,
        sum(n.accepted) as accepted,
        sum(n.sent + n.delivered + n.read) as sent,
        sum(n.delivered + n.read) as delivered,
        sum(n.read) as read,
        sum(n.pending) as pending,
        sum(n.failed) as failed,
        sum(n.expired) as expired,
        sum(n.cancelled) as cancelled,
        sum(n.suppressed) as suppressed,
        quantilesTDigestMerge(0.5, 0.95, 0.99)(n.accept_to_sent_ms) as to_sent,
        quantilesTDigestMerge(0.5, 0.95, 0.99)(n.sent_to_delivered_ms) as to_delivered
    from deliveries_by_hour as n
    where hour >= {since:DateTime('UTC')} and hour < {until:DateTime('UTC')}
    group by tenant_id, channel, hour
)
order by tenant_id, channel, hour;
