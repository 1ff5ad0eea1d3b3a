-- How did the deliveries of each campaign end?
--
-- Exact: what route accepted, with the label "campaign" of its message (metadata), and the latest state of each delivery.
-- They are joined by a 64-bit hash of tenant and delivery: comparing the texts would take twice as long. Among ten million deliveries,
-- the chance that any two have one hash is one in 300,000.
--
-- Columns:
--   tenant_id: the tenant
--   campaign: the label
--   channel: the channel
--   accepted: deliveries that stage route accepted in the range
--   first_at: the first of them
--   last_at: the last of them
--   pending: no end yet, or not in the facts yet
--   sent: SENT or further
--   delivered: DELIVERED or further
--   read: READ
--   failed: FAILED or EXPIRED
--   suppressed: SUPPRESSED or CANCELLED
--   delivered_share: delivered / accepted
--   read_share: read / accepted
-- Left out: messages without this label. Parameter label chooses one campaign; '' shows all.
-- Table: tenant_id, campaign, channel, accepted, pending, sent, delivered, read, failed, suppressed, delivered_share
create or replace view report_campaigns as
select
    c.tenant_id as tenant_id,
    c.campaign as campaign,
    c.channel as channel,
    count() as accepted,
    min(c.accepted_at) as first_at,
    max(c.accepted_at) as last_at,
    countIf(d.status in ('', 'PENDING')) as pending,
    countIf(d.status in ('SENT', 'DELIVERED', 'READ')) as sent,
    countIf(d.status in ('DELIVERED', 'READ')) as delivered,
    countIf(d.status = 'READ') as read,
    countIf(d.status in ('FAILED', 'EXPIRED')) as failed,
    countIf(d.status in ('SUPPRESSED', 'CANCELLED')) as suppressed,
    delivered / accepted as delivered_share,
    read / accepted as read_share
from (
    select tenant_id, channel, xxh3(tenant_id, delivery_id) as place, campaign, accepted_at
    from accepted_deliveries
    where accepted_at >= {since:DateTime64(3, 'UTC')} and accepted_at < {until:DateTime64(3, 'UTC')}
    and ({tenant:String} = '' or tenant_id = {tenant:String})
    and ({channel:String} = '' or channel = {channel:String})
    and ({account:String} = '' or account = {account:String})
        and campaign != '' and ({label:String} = '' or campaign = {label:String})
) as c
any left join (
    select xxh3(tenant_id, delivery_id) as place, status
    from current_deliveries(
        since = {since:DateTime64(3, 'UTC')}, until = {until:DateTime64(3, 'UTC')},
        tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
    )
) as d on d.place = c.place
group by tenant_id, campaign, channel
order by tenant_id, campaign, channel
settings join_algorithm = 'parallel_hash';
