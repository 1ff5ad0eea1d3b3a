-- Where does the time of a delivery go, part by part?
--
-- Exact, from the latest state of each delivery that was sent or has arrived. The parts are those of report breaches, here with scheduled
-- and throttled deliveries too: their time counts from not_before. For each delivery the parts add up to its total; percentiles do not.
--
-- Columns:
--   tenant_id: the tenant
--   channel: the channel
--   part: waiting (in the lane), pacing, attempts, provider, receipt, other (what no part explains), total
--   deliveries: how many have this part, with both its times known
--   p50_ms: half of them took at most this
--   p95_ms: 95 % of them took at most this
--   sum_ms: of all of them
--   of_total_share: sum_ms as a share of the total's
-- Left out: signals; deliveries that were neither sent nor have arrived.
create or replace view report_waterfall as
select
    tenant_id,
    channel,
    each.1 as part,
    each.2 as deliveries,
    each.3[1] as p50_ms,
    each.3[2] as p95_ms,
    toInt64(ifNull(each.4, 0)) as sum_ms,
    sum_ms / nullIf(total, 0) as of_total_share
from (
    select
        tenant_id,
        channel,
        sum(t.total_ms) as total,
        arrayJoin([
            ('waiting', countIf(t.waiting_ms is not null), quantilesExactIf(0.5, 0.95)(assumeNotNull(t.waiting_ms), t.waiting_ms is not null), sum(t.waiting_ms)),
            ('pacing', countIf(t.pacing_ms is not null), quantilesExactIf(0.5, 0.95)(assumeNotNull(t.pacing_ms), t.pacing_ms is not null), sum(t.pacing_ms)),
            ('attempts', countIf(t.attempts_ms is not null), quantilesExactIf(0.5, 0.95)(assumeNotNull(t.attempts_ms), t.attempts_ms is not null), sum(t.attempts_ms)),
            ('provider', countIf(t.provider_ms is not null), quantilesExactIf(0.5, 0.95)(assumeNotNull(t.provider_ms), t.provider_ms is not null), sum(t.provider_ms)),
            ('receipt', countIf(t.receipt_ms is not null), quantilesExactIf(0.5, 0.95)(assumeNotNull(t.receipt_ms), t.receipt_ms is not null), sum(t.receipt_ms)),
            ('other', count(), quantilesExact(0.5, 0.95)(t.other_ms), sum(t.other_ms)),
            ('total', count(), quantilesExact(0.5, 0.95)(t.total_ms), sum(t.total_ms))
        ]) as each
    from timed_deliveries(
        since = {since:DateTime64(3, 'UTC')}, until = {until:DateTime64(3, 'UTC')},
        tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
    ) as t
    group by tenant_id, channel
)
where deliveries > 0
order by tenant_id, channel, indexOf(['waiting', 'pacing', 'attempts', 'provider', 'receipt', 'other', 'total'], part);
