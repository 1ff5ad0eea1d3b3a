-- How many sent deliveries were confirmed by a receipt, and how many can never be?
--
-- Exact, from the latest state of the deliveries that are SENT or further. What a channel reports is what its connector declares: Telegram
-- reports neither DELIVERED nor READ, Instagram no DELIVERED. A READ that is only inferred (a reply, a button) counts as read.
--
-- Columns:
--   tenant_id: the tenant
--   channel: the channel
--   reports_delivered: whether the channel reports DELIVERED
--   reports_read: whether it reports READ
--   sent: SENT or further
--   delivered: with a DELIVERED of its own
--   implied: DELIVERED that only follows from READ
--   read: READ
--   unconfirmed: SENT, without any receipt
--   never_confirmable: of these, on a channel that reports neither
--   missing: of these, on a channel that reports one of them: it may come yet
--   confirmed_share: (sent - unconfirmed) / sent
-- Left out: deliveries that were not sent.
-- Table: tenant_id, channel, sent, delivered, implied, read, unconfirmed, missing, confirmed_share
create or replace view report_coverage as
select
    tenant_id,
    channel,
    any(c.reports_delivered) as reports_delivered,
    any(c.reports_read) as reports_read,
    count() as sent,
    countIf(d.status in ('DELIVERED', 'READ') and not d.delivered_implied) as delivered,
    countIf(d.status in ('DELIVERED', 'READ') and d.delivered_implied) as implied,
    countIf(d.status = 'READ') as read,
    countIf(d.status = 'SENT') as unconfirmed,
    if(reports_delivered or reports_read, 0, unconfirmed) as never_confirmable,
    unconfirmed - never_confirmable as missing,
    (count() - unconfirmed) / count() as confirmed_share
from (
    select tenant_id, channel, status, delivered_implied
    from current_deliveries(
        since = {since:DateTime64(3, 'UTC')}, until = {until:DateTime64(3, 'UTC')},
        tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
    )
    where status in ('SENT', 'DELIVERED', 'READ')
) as d
left join channel_reports as c on c.channel = d.channel
group by d.tenant_id as tenant_id, d.channel as channel
order by tenant_id, channel;
