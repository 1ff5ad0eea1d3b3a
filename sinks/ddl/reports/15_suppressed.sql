-- How many deliveries were not sent because the person wants none, and why?
--
-- Exact, from the latest state of the deliveries. The reason is the code of the suppression (docs/opt-out.md).
--
-- Columns:
--   tenant_id: the tenant
--   channel: the channel
--   account: our account
--   reason_code: why
--   suppressed: deliveries that are SUPPRESSED
--   conversations: in how many conversations
--   accepted: all deliveries of this account that were accepted in the range
--   suppressed_share: suppressed / accepted
-- Left out: opt-outs of people to whom nothing was to be sent in the range: PostgreSQL has all of them.
create or replace view report_suppressed as
select tenant_id, channel, account, reason_code, suppressed, conversations, accepted, suppressed / accepted as suppressed_share
from (
    select
        tenant_id,
        channel,
        account,
        reason_code,
        countIf(d.status = 'SUPPRESSED') as suppressed,
        uniqExactIf(d.conversation_id, d.status = 'SUPPRESSED') as conversations,
        sum(count()) over (partition by tenant_id, channel, account) as accepted
    from current_deliveries(
        since = {since:DateTime64(3, 'UTC')}, until = {until:DateTime64(3, 'UTC')},
        tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
    ) as d
    group by tenant_id, channel, account, reason_code
)
where suppressed > 0
order by tenant_id, channel, account, suppressed desc, reason_code;
