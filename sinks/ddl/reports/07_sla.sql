-- What share of the deliveries was sent within the objective's time, and is that enough?
--
-- From the roll-ups, exact. The objective is accept_to_sent of schemas/objectives.py: objective_share of the deliveries are sent at most
-- objective_ms after route accepted them. objective_ms must be one of the limits that the roll-ups count:
-- 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 3600000.
--
-- Columns:
--   tenant_id: the tenant
--   channel: the channel
--   accepted: deliveries that stage route accepted in the range
--   measured: of these, what the objective counts: sent, neither scheduled nor throttled
--   within: measured deliveries that were sent in time
--   late: measured deliveries that were not
--   attained_share: within / measured; null when nothing was measured
--   objective_share: the share that has to be reached
--   is_met: whether it is reached; null when nothing was measured
--   scheduled_or_throttled: sent deliveries that the objective leaves out
--   never_sent: FAILED, EXPIRED, CANCELLED or SUPPRESSED, which the objective leaves out as well
-- Left out: deliveries that are not sent yet (pending): look at them in report delivery.
-- Grain: minute
-- Table: tenant_id, channel, accepted, measured, within, late, attained_share, is_met, scheduled_or_throttled, never_sent
create or replace view report_sla as
select
    tenant_id, channel, accepted, arraySum(mapValues(counted)) as measured,
    arraySum(mapValues(mapFilter((limit, n) -> limit <= {objective_ms:UInt32}, counted))) as within,
    measured - within as late,
    within / nullIf(measured, 0) as attained_share,
    {objective_share:Float64} as objective_share,
    toBool(attained_share >= objective_share) as is_met,
    arraySum(mapValues(sent)) - measured as scheduled_or_throttled,
    never_sent
from (
    select
        tenant_id,
        channel,
        sum(r.accepted) as accepted,
        sum(r.failed + r.expired + r.cancelled + r.suppressed) as never_sent,
        sumMap(r.sla_sent_le_ms) as counted,
        sumMap(r.accept_to_sent_le_ms) as sent
    from rolled_deliveries(
        since = {since:DateTime64(3, 'UTC')}, until = {until:DateTime64(3, 'UTC')},
        tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
    ) as r
    group by tenant_id, channel
)
where throwIf({objective_ms:UInt32} not in (10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 3600000), 'objective_ms is not a limit of the roll-ups') = 0
order by tenant_id, channel;
