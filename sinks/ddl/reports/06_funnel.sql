-- How many accepted deliveries were sent, how many of these arrived, and how many were read?
--
-- From the roll-ups, exact. A delivery counts for every step up to where it stands now.
--
-- Columns:
--   tenant_id: the tenant
--   channel: the channel
--   step: accepted, sent, delivered, read
--   deliveries: how many came as far as this step or further
--   of_accepted_share: the share of all accepted deliveries
--   of_previous_share: the share of those that made the step before
-- Left out: signals. A channel that does not report DELIVERED or READ shows 0 there (report coverage).
-- Grain: minute
create or replace view report_funnel as
select
    tenant_id,
    channel,
    ['accepted', 'sent', 'delivered', 'read'][n] as step,
    made[n] as deliveries,
    made[n] / nullIf(made[1], 0) as of_accepted_share,
    if(n = 1, null, made[n] / nullIf(made[n - 1], 0)) as of_previous_share
from (
    select tenant_id, channel, [sum(r.accepted), sum(r.sent + r.delivered + r.read), sum(r.delivered + r.read), sum(r.read)] as made
    from rolled_deliveries(
        since = {since:DateTime64(3, 'UTC')}, until = {until:DateTime64(3, 'UTC')},
        tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
    ) as r
    group by tenant_id, channel
)
array join [1, 2, 3, 4] as n
order by tenant_id, channel, n;
