-- How long do people wait for our next message after they wrote to us?
--
-- Exact: for each message of a person that was accepted in the range, the next message in the same conversation that we accepted for
-- sending, on any channel, also after the range. Several messages in a row are answered by the same one.
--
-- Columns:
--   tenant_id: the tenant
--   channel: the channel on which the person wrote
--   inbound: messages that people wrote
--   answered: of these, with a later message of ours in the conversation
--   unanswered: without one yet
--   answered_share: answered / inbound
--   response_p50_ms: half of the answers were accepted at most this long after the person's message was; null when there is none
--   response_p95_ms: 95 % of them
--   response_max_ms: the longest
-- Left out: signals (typing, mark_read) are no answer. A negative time counts as 0.
create or replace view report_responses as
select
    tenant_id,
    channel,
    count() as inbound,
    countIf(w.response_ms is not null) as answered,
    inbound - answered as unanswered,
    answered / inbound as answered_share,
    quantileExactOrNull(0.5)(w.response_ms) as response_p50_ms,
    quantileExactOrNull(0.95)(w.response_ms) as response_p95_ms,
    max(w.response_ms) as response_max_ms
from (
    select
        i.tenant_id as tenant_id,
        i.channel as channel,
        if(o.seq = 0, null, greatest(0, dateDiff('millisecond', i.accepted_at, o.accepted_at))) as response_ms
    from (
        select tenant_id, channel, xxh3(tenant_id, conversation_id) as place, seq, accepted_at
        from inbound_events
        where accepted_at >= {since:DateTime64(3, 'UTC')} and accepted_at < {until:DateTime64(3, 'UTC')}
    and ({tenant:String} = '' or tenant_id = {tenant:String})
    and ({channel:String} = '' or channel = {channel:String})
    and ({account:String} = '' or account = {account:String})
    ) as i
    asof left join (
        select xxh3(tenant_id, conversation_id) as place, seq, accepted_at
        from accepted_deliveries
        where accepted_at >= {since:DateTime64(3, 'UTC')} - interval 1 day and ({tenant:String} = '' or tenant_id = {tenant:String})
            and kind not in ('typing', 'mark_read')
            and place in (
                select xxh3(tenant_id, conversation_id) from inbound_events
                where accepted_at >= {since:DateTime64(3, 'UTC')} and accepted_at < {until:DateTime64(3, 'UTC')}
            )
    ) as o on o.place = i.place and i.seq < o.seq
) as w
group by tenant_id, channel
order by tenant_id, channel;
