-- Which receipts found no delivery, and which deliveries wait for a receipt that does not come?
--
-- Exact. Orphan receipts are dead letters, counted by when stage match gave up on them. Stalled deliveries are those that are stalled now,
-- counted by when they were accepted.
--
-- Columns:
--   tenant_id: the tenant
--   channel: the channel
--   account: our account; empty for orphan receipts, whose dead letters do not have it
--   what: orphan receipt or stalled delivery
--   number: how many
--   first_at: the earliest: when it was given up, or since when it counts as stalled
--   last_at: the latest
-- Left out: with an account, orphan receipts.
create or replace view report_orphans as
select tenant_id, channel, account, what, count() as number, min(at) as first_at, max(at) as last_at
from (
    select tenant_id, channel, '' as account, 'orphan receipt' as what, refused_at as at
    from dead_letter_events final
    where cause = 'orphan_receipt'
        and refused_at >= {since:DateTime64(3, 'UTC')} and refused_at < {until:DateTime64(3, 'UTC')}
        and ({tenant:String} = '' or tenant_id = {tenant:String})
        and ({channel:String} = '' or channel = {channel:String})
        and {account:String} = ''
    union all
    select tenant_id, channel, account, 'stalled delivery' as what, assumeNotNull(stalled_at) as at
    from current_deliveries(
        since = {since:DateTime64(3, 'UTC')}, until = {until:DateTime64(3, 'UTC')},
        tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
    )
    where stalled_at is not null
)
group by tenant_id, channel, account, what
order by what, number desc, tenant_id, channel, account;
