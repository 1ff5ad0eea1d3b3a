-- In which minutes is an accepted delivery not accounted for?
--
-- Exact, as report audit: the worst_n minutes with the largest difference. Empty when all is accounted for.
--
-- Columns:
--   tenant_id: the tenant
--   channel: the channel
--   minute: when the minute begins in which the deliveries were accepted, UTC
--   accepted: deliveries that stage route accepted in it
--   ended: SENT or further, FAILED, EXPIRED, CANCELLED or SUPPRESSED
--   in_flight: PENDING: waiting, or being sent
--   difference: accepted - ended - in_flight
-- Left out: signals; minutes without a difference.
-- Ignores: account
-- Grain: minute
create or replace view report_audit_minutes as
select tenant_id, channel, minute, accepted, ended, in_flight, difference
from balance_by_minute(
    since = {since:DateTime64(3, 'UTC')}, until = {until:DateTime64(3, 'UTC')},
    tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
)
where difference != 0
order by abs(difference) desc, tenant_id, channel, minute
limit {worst_n:UInt32};
