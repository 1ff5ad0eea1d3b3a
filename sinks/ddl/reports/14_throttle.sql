-- How much time did providers' limits cost, by account?
--
-- Exact, from the attempts that a provider refused only because we sent too fast, of the deliveries that were accepted in the range.
--
-- Columns:
--   tenant_id: the tenant
--   channel: the channel
--   account: our account
--   throttled: attempts refused so
--   deliveries: of how many deliveries
--   wait_sum_ms: from the end of each such attempt to the time of the next one, added up
--   wait_p95_ms: 95 % of these waits were at most this long; null when no next attempt followed
--   wait_max_ms: the longest of them
-- Left out: attempts after which none followed have no wait. A negative wait counts as 0.
create or replace view report_throttle as
select
    tenant_id,
    channel,
    account,
    count() as throttled,
    uniqExact(w.delivery_id) as deliveries,
    ifNull(sum(w.wait_ms), 0) as wait_sum_ms,
    quantileExactOrNull(0.95)(w.wait_ms) as wait_p95_ms,
    max(w.wait_ms) as wait_max_ms
from (
    select
        tenant_id, channel, account, delivery_id,
        if(retry_at is null, null, greatest(0, dateDiff('millisecond', ended_at, assumeNotNull(retry_at)))) as wait_ms
    from attempts
    where accepted_at >= {since:DateTime64(3, 'UTC')} and accepted_at < {until:DateTime64(3, 'UTC')}
    and ({tenant:String} = '' or tenant_id = {tenant:String})
    and ({channel:String} = '' or channel = {channel:String})
    and ({account:String} = '' or account = {account:String})
        and throttled
) as w
group by tenant_id, channel, account
order by wait_sum_ms desc, tenant_id, channel, account;
