-- On which weekdays and at which hours is there most to deliver, and when is it slow or failing?
--
-- From the hourly roll-up. Counts are exact, the percentile is an estimate (t-digest). All tenants and channels together, unless the
-- parameters choose.
--
-- Columns:
--   weekday: 1 is Monday, 7 is Sunday; UTC
--   hour_of_day: 0 to 23, UTC
--   accepted: deliveries that were accepted then
--   failure_share: (failed + expired) / accepted
--   accept_to_sent_p95_ms: 95 % were sent at most this long after they were accepted; null when nothing was measured
-- Left out: hours in which nothing was accepted. Other time zones than UTC.
-- Grain: hour
create or replace view report_heatmap as
select
    weekday,
    hour_of_day,
    accepted,
    unsent / nullIf(accepted, 0) as failure_share,
    if(isNaN(p95), null, p95) as accept_to_sent_p95_ms
from (
    select
        toDayOfWeek(n.hour) as weekday,
        toHour(n.hour) as hour_of_day,
        sum(n.accepted) as accepted,
        sum(n.failed + n.expired) as unsent,
        quantilesTDigestMerge(0.5, 0.95, 0.99)(n.accept_to_sent_ms)[2] as p95
    from deliveries_by_hour as n
    where hour >= {since:DateTime64(3, 'UTC')} and hour < {until:DateTime64(3, 'UTC')}
        and ({tenant:String} = '' or tenant_id = {tenant:String})
        and ({channel:String} = '' or channel = {channel:String})
        and ({account:String} = '' or account = {account:String})
    group by weekday, hour_of_day
)
order by weekday, hour_of_day;
