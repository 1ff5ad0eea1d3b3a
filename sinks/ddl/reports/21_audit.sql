-- Is every accepted delivery accounted for: accepted = ended + in flight?
--
-- Exact, from two roll-ups that come from different topics: what route accepted (conversation-log), and where deliveries stand
-- (delivery-states). Report audit_minutes names the minutes that differ.
--
-- Columns:
--   tenant_id: the tenant
--   channel: the channel
--   accepted: deliveries that stage route accepted in the range
--   ended: SENT or further, FAILED, EXPIRED, CANCELLED or SUPPRESSED
--   in_flight: PENDING: waiting, or being sent
--   difference: accepted - ended - in_flight; 0 when all is accounted for. For the last seconds before now it may differ: the sinks read
--     the two topics one after the other
--   minutes: minutes in which something was accepted
--   minutes_that_differ: of these, with a difference
-- Left out: signals.
-- Ignores: account
-- Grain: minute
create or replace view report_audit as
select
    tenant_id,
    channel,
    sum(m.accepted) as accepted,
    sum(m.ended) as ended,
    sum(m.in_flight) as in_flight,
    sum(m.difference) as difference,
    count() as minutes,
    countIf(m.difference != 0) as minutes_that_differ
from balance_by_minute(
    since = {since:DateTime64(3, 'UTC')}, until = {until:DateTime64(3, 'UTC')},
    tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
) as m
group by tenant_id, channel
order by tenant_id, channel;
