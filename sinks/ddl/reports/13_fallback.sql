-- How often did a second channel reach a person whom the first one did not?
--
-- Exact, from the latest state of the deliveries that were made in place of another one (fallback_of) and of those they replace. Stage track
-- makes no such deliveries yet, so the report is empty until it does.
--
-- Columns:
--   tenant_id: the tenant
--   first_channel: the channel of the delivery that was replaced; empty when it is not in ClickHouse
--   channel: the channel of the fallback
--   fallbacks: deliveries made in place of another one
--   first_failed: of the replaced ones, FAILED or EXPIRED now
--   first_arrived: of the replaced ones, DELIVERED or READ after all, so that the person got the message twice or may have
--   sent: fallbacks that are SENT or further
--   delivered: fallbacks that are DELIVERED or further
--   sent_share: sent / fallbacks
--   delivered_share: delivered / fallbacks
-- Left out: replaced deliveries that were accepted more than 31 days before the range. Channel and account are those of the fallback.
create or replace view report_fallback as
select
    tenant_id,
    f.first_channel as first_channel,
    f.channel as channel,
    count() as fallbacks,
    countIf(f.first_status in ('FAILED', 'EXPIRED')) as first_failed,
    countIf(f.first_status in ('DELIVERED', 'READ')) as first_arrived,
    countIf(f.status in ('SENT', 'DELIVERED', 'READ')) as sent,
    countIf(f.status in ('DELIVERED', 'READ')) as delivered,
    sent / fallbacks as sent_share,
    delivered / fallbacks as delivered_share
from (
    select s.tenant_id as tenant_id, s.channel as channel, s.status as status, d.channel as first_channel, d.status as first_status
    from (
        select tenant_id, channel, status, fallback_of
        from current_deliveries(
            since = {since:DateTime64(3, 'UTC')}, until = {until:DateTime64(3, 'UTC')},
            tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
        )
        where fallback_of != ''
    ) as s
    left join (
        select tenant_id, delivery_id, channel, status
        from current_deliveries(
            since = {since:DateTime64(3, 'UTC')} - interval 31 day, until = {until:DateTime64(3, 'UTC')},
            tenant = {tenant:String}, channel = '', account = ''
        )
        where delivery_id in (
            select fallback_of from delivery_events
            where accepted_at >= {since:DateTime64(3, 'UTC')} and accepted_at < {until:DateTime64(3, 'UTC')} and fallback_of != ''
        )
    ) as d on d.tenant_id = s.tenant_id and d.delivery_id = s.fallback_of
) as f
group by tenant_id, first_channel, channel
order by tenant_id, first_channel, channel;
