-- How do calls to providers end, for what reason, and how many are repetitions?
--
-- Exact, from the attempts of the deliveries that were accepted in the range.
--
-- Columns:
--   tenant_id: the tenant
--   channel: the channel
--   class: the outcome: accepted, retry_later, rejected, unknown
--   cause: ACCEPTED, RETRY_LATER, EXHAUSTED (the last attempt also had to be repeated), REJECTED or UNKNOWN
--   reason_code: the provider's code, or ours; empty when there is none
--   attempts: calls that ended so
--   deliveries: of how many deliveries
--   retries: of these calls, second and later ones of a delivery
--   throttled: refused only because we sent too fast
--   call_p50_ms: half of the calls took at most this; null when no call's start is known
--   call_p95_ms: 95 % of the calls took at most this
-- Left out: decisions to send again after an unknown outcome (report unknown).
-- Table: tenant_id, channel, cause, reason_code, attempts, deliveries, retries, throttled, call_p50_ms, call_p95_ms
create or replace view report_retries as
select
    tenant_id,
    channel,
    class,
    cause,
    reason_code,
    count() as attempts,
    uniqExact(a.delivery_id) as deliveries,
    countIf(a.attempt > 1) as retries,
    countIf(a.throttled) as throttled,
    quantileExactOrNull(0.5)(a.call_ms) as call_p50_ms,
    quantileExactOrNull(0.95)(a.call_ms) as call_p95_ms
from attempts as a
where accepted_at >= {since:DateTime64(3, 'UTC')} and accepted_at < {until:DateTime64(3, 'UTC')}
    and ({tenant:String} = '' or tenant_id = {tenant:String})
    and ({channel:String} = '' or channel = {channel:String})
    and ({account:String} = '' or account = {account:String})
    and not resent
group by tenant_id, channel, class, cause, reason_code
order by tenant_id, channel, attempts desc, class, cause, reason_code;
