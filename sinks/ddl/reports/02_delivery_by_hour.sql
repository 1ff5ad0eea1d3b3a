-- How did deliveries and failures go, hour by hour?
--
-- From the hourly roll-up: as fast for a year as for a day. Counts are exact, percentiles are estimates (t-digests).
-- A scheduled delivery counts from its acceptance, not from the time it was scheduled for.
--
-- Columns:
--   tenant_id: the tenant
--   channel: the channel
--   hour: when the hour begins in which the deliveries were accepted, UTC
--   accepted: deliveries that stage route accepted
--   sent: SENT or further, where they stand now
--   delivered: DELIVERED or further
--   read: READ
--   pending: no end yet
--   failed: FAILED
--   expired: EXPIRED
--   cancelled: CANCELLED
--   suppressed: SUPPRESSED
--   failure_share: (failed + expired) / accepted
--   attempts: calls to the provider that ended
--   resends: attempts repeated after an unknown outcome
--   throttles: attempts refused because we sent too fast
--   accept_to_sent_p50_ms: median, from the acceptance by route to the acceptance by the provider; null when nothing was measured
--   accept_to_sent_p95_ms: the same, 95th percentile
--   accept_to_sent_p99_ms: the same, 99th percentile
--   sent_to_delivered_p50_ms: median, from the provider's acceptance to the arrival
--   sent_to_delivered_p95_ms: the same, 95th percentile
--   sent_to_delivered_p99_ms: the same, 99th percentile
-- Left out: as in report delivery; and times of steps that a delivery skipped, or made after it had failed.
-- Grain: hour
-- Table: tenant_id, channel, hour, accepted, sent, delivered, read, failed, failure_share, accept_to_sent_p95_ms, sent_to_delivered_p95_ms
create or replace view report_delivery_by_hour as
select
    tenant_id, channel, hour, accepted, sent, delivered, read, pending, failed, expired, cancelled, suppressed,
    (failed + expired) / nullIf(accepted, 0) as failure_share,
    attempts, resends, throttles,
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
        sum(n.attempts) as attempts,
        sum(n.resends) as resends,
        sum(n.throttles) as throttles,
        quantilesTDigestMerge(0.5, 0.95, 0.99)(n.accept_to_sent_ms) as to_sent,
        quantilesTDigestMerge(0.5, 0.95, 0.99)(n.sent_to_delivered_ms) as to_delivered
    from deliveries_by_hour as n
    where hour >= {since:DateTime64(3, 'UTC')} and hour < {until:DateTime64(3, 'UTC')}
        and ({tenant:String} = '' or tenant_id = {tenant:String})
        and ({channel:String} = '' or channel = {channel:String})
        and ({account:String} = '' or account = {account:String})
    group by tenant_id, channel, hour
)
order by tenant_id, channel, hour;
