-- How fast is the error budget of the objective being used up?
--
-- From the roll-ups, exact. The budget is 1 - objective_share. Burn 1 uses up exactly the budget, burn 14 fourteen times as much. Three
-- windows end at until: 1 hour, 6 hours, 3 days. A high burn in a short and a long window together calls for action
-- (docs/operations.md).
--
-- Columns:
--   tenant_id: the tenant
--   channel: the channel
--   window: 1 h, 6 h or 3 d before until
--   measured: deliveries that the objective counts, as in report sla
--   late: of these, sent later than the objective's time
--   late_share: late / measured
--   allowed_share: 1 - objective_share
--   burn: late_share / allowed_share
-- Left out: as in report sla. A window without a measured delivery has no row.
-- Ignores: since
-- Grain: minute
create or replace view report_burn as
select
    tenant_id,
    channel,
    window,
    arraySum(mapValues(counted)) as measured,
    measured - arraySum(mapValues(mapFilter((limit, n) -> limit <= {objective_ms:UInt32}, counted))) as late,
    late / nullIf(measured, 0) as late_share,
    round(1 - {objective_share:Float64}, 6) as allowed_share,
    late_share / allowed_share as burn
from (
    select tenant_id, channel, window, sumMap(r.sla_sent_le_ms) as counted
    from (
        select '1 h' as window, * from rolled_deliveries(
            since = {until:DateTime64(3, 'UTC')} - interval 1 hour, until = {until:DateTime64(3, 'UTC')},
            tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
        )
        union all
        select '6 h' as window, * from rolled_deliveries(
            since = {until:DateTime64(3, 'UTC')} - interval 6 hour, until = {until:DateTime64(3, 'UTC')},
            tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
        )
        union all
        select '3 d' as window, * from rolled_deliveries(
            since = {until:DateTime64(3, 'UTC')} - interval 3 day, until = {until:DateTime64(3, 'UTC')},
            tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
        )
    ) as r
    where {since:DateTime64(3, 'UTC')} <= {until:DateTime64(3, 'UTC')}
    group by tenant_id, channel, window
)
where throwIf({objective_ms:UInt32} not in (10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 3600000), 'objective_ms is not a limit of the roll-ups') = 0 and measured > 0
order by tenant_id, channel, indexOf(['1 h', '6 h', '3 d'], window);
