-- How long did it take until deliveries were sent, delivered and read, hour by hour?
--
-- From the roll-ups. Counts and the longest time are exact, percentiles are estimates (t-digests).
-- A scheduled delivery counts from its acceptance, not from the time it was scheduled for.
--
-- Columns:
--   tenant_id: the tenant
--   channel: the channel
--   hour: when the hour begins in which the deliveries were accepted, UTC
--   step: from where to where
--   deliveries: how many made this step, with both times known
--   p50_ms: half of them took at most this
--   p95_ms: 95 % of them took at most this
--   p99_ms: 99 % of them took at most this
--   max_ms: the longest took this
-- Left out: steps that a delivery skipped, or made after it had failed. A DELIVERED that only follows from READ. A time that two clocks
--   make negative counts as 0.
-- Grain: hour
create or replace view report_latency_by_hour as
select tenant_id, channel, hour, each.1 as step, each.2 as deliveries, each.3[1] as p50_ms, each.3[2] as p95_ms, each.3[3] as p99_ms, each.4 as max_ms
from (
    select
        tenant_id,
        channel,
        hour,
        arrayJoin([
            ('accepted to sent', arraySum(mapValues(sumMap(n.accept_to_sent_le_ms))),
                quantilesTDigestMerge(0.5, 0.95, 0.99)(n.accept_to_sent_ms), max(n.accept_to_sent_max_ms)),
            ('sent to delivered', arraySum(mapValues(sumMap(n.sent_to_delivered_le_ms))),
                quantilesTDigestMerge(0.5, 0.95, 0.99)(n.sent_to_delivered_ms), max(n.sent_to_delivered_max_ms)),
            ('accepted to delivered', arraySum(mapValues(sumMap(n.accept_to_delivered_le_ms))),
                quantilesTDigestMerge(0.5, 0.95, 0.99)(n.accept_to_delivered_ms), max(n.accept_to_delivered_max_ms)),
            ('delivered to read', arraySum(mapValues(sumMap(n.delivered_to_read_le_ms))),
                quantilesTDigestMerge(0.5, 0.95, 0.99)(n.delivered_to_read_ms), max(n.delivered_to_read_max_ms))
        ]) as each
    from deliveries_by_hour as n
    where hour >= {since:DateTime64(3, 'UTC')} and hour < {until:DateTime64(3, 'UTC')}
        and ({tenant:String} = '' or tenant_id = {tenant:String})
        and ({channel:String} = '' or channel = {channel:String})
        and ({account:String} = '' or account = {account:String})
    group by tenant_id, channel, hour
)
where deliveries > 0
order by tenant_id, channel, hour, indexOf(['accepted to sent', 'sent to delivered', 'accepted to delivered', 'delivered to read'], step);
