-- How many calls ended without a readable answer, how many messages were sent again, and how did these deliveries end?
--
-- Exact, from attempts and the latest state of the deliveries. resends is the published bound on duplicates toward people.
--
-- Columns:
--   tenant_id: the tenant
--   channel: the channel
--   account: our account
--   unknown: calls whose outcome is unknown
--   resends: attempts repeated because of that
--   deliveries: deliveries with an unknown outcome or a resend
--   sent: of these, SENT or further now
--   ended_unsent: of these, FAILED, EXPIRED, CANCELLED or SUPPRESSED now
--   pending: of these, without an end yet
-- Left out: deliveries that were not accepted in the range.
create or replace view report_unknown as
select
    tenant_id,
    channel,
    account,
    sum(e.unknown) as unknown,
    sum(e.resends) as resends,
    count() as deliveries,
    countIf(e.status in ('SENT', 'DELIVERED', 'READ')) as sent,
    countIf(e.status in ('FAILED', 'EXPIRED', 'CANCELLED', 'SUPPRESSED')) as ended_unsent,
    countIf(e.status = 'PENDING') as pending
from (
    select
        f.tenant_id as tenant_id, f.channel as channel, f.account as account, f.unknown as unknown, f.resends as resends,
        d.status as status
    from (
        select tenant_id, channel, account, delivery_id, countIf(class = 'unknown') as unknown, countIf(resent) as resends
        from attempts
        where accepted_at >= {since:DateTime64(3, 'UTC')} and accepted_at < {until:DateTime64(3, 'UTC')}
    and ({tenant:String} = '' or tenant_id = {tenant:String})
    and ({channel:String} = '' or channel = {channel:String})
    and ({account:String} = '' or account = {account:String})
            and (class = 'unknown' or resent)
        group by tenant_id, channel, account, delivery_id
    ) as f
    left join (
        select tenant_id, delivery_id, status
        from current_deliveries(
            since = {since:DateTime64(3, 'UTC')}, until = {until:DateTime64(3, 'UTC')},
            tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
        )
        where delivery_id in (
            select delivery_id from attempts
            where accepted_at >= {since:DateTime64(3, 'UTC')} and accepted_at < {until:DateTime64(3, 'UTC')}
    and ({tenant:String} = '' or tenant_id = {tenant:String})
    and ({channel:String} = '' or channel = {channel:String})
    and ({account:String} = '' or account = {account:String})
                and (class = 'unknown' or resent)
        )
    ) as d on d.tenant_id = f.tenant_id and d.delivery_id = f.delivery_id
) as e
group by tenant_id, channel, account
order by tenant_id, channel, account;
