-- What several reports read. Not reports themselves.
--
-- All take since, until, tenant, channel, account: the deliveries accepted in [since, until), of one tenant, channel and account,
-- '' for all. Signals (typing, mark_read) are not in ClickHouse.

-- The latest state of each delivery. A partition is a day of accepted_at, which is in the key, so that FINAL need not merge across them.
create or replace view current_deliveries as
select *
from deliveries final
where accepted_at >= {since:DateTime64(3, 'UTC')} and accepted_at < {until:DateTime64(3, 'UTC')}
    and ({tenant:String} = '' or tenant_id = {tenant:String})
    and ({channel:String} = '' or channel = {channel:String})
    and ({account:String} = '' or account = {account:String})
settings do_not_merge_across_partitions_select_final = 1;

-- The roll-ups: whole hours from deliveries_by_hour, the minutes before and after them from deliveries_by_minute. A minute belongs to the
-- range when it begins in it. Minutes are kept for 100 days; older ranges have to begin and end at a full hour. The roll-ups hold the
-- years 1970 to 2099, and toStartOfHour would overflow outside them.
create or replace view rolled_deliveries as
with
    toStartOfHour(greatest({since:DateTime64(3, 'UTC')}, toDateTime64('1970-01-01 00:00:00', 3, 'UTC')) + toIntervalMillisecond(3599999)) as first_hour,
    toStartOfHour(least({until:DateTime64(3, 'UTC')}, toDateTime64('2100-01-01 00:00:00', 3, 'UTC'))) as last_hour
select hour as begins_at, * except (hour)
from deliveries_by_hour
where hour >= first_hour and hour < last_hour
    and ({tenant:String} = '' or tenant_id = {tenant:String})
    and ({channel:String} = '' or channel = {channel:String})
    and ({account:String} = '' or account = {account:String})
union all
with
    toStartOfHour(greatest({since:DateTime64(3, 'UTC')}, toDateTime64('1970-01-01 00:00:00', 3, 'UTC')) + toIntervalMillisecond(3599999)) as first_hour,
    toStartOfHour(least({until:DateTime64(3, 'UTC')}, toDateTime64('2100-01-01 00:00:00', 3, 'UTC'))) as last_hour
select minute as begins_at, * except (minute)
from deliveries_by_minute
where minute >= {since:DateTime64(3, 'UTC')} and minute < {until:DateTime64(3, 'UTC')}
    and (minute < first_hour or minute >= last_hour)
    and ({tenant:String} = '' or tenant_id = {tenant:String})
    and ({channel:String} = '' or channel = {channel:String})
    and ({account:String} = '' or account = {account:String});

-- Where the time of each delivery went that was sent or has arrived: total_ms from the start (accepted, or not_before when that is later)
-- to the arrival, or to the sending when no arrival is known. A part is null when one of its two times is missing. Times that go
-- backwards count as no time. What no part explains is in other_ms, so that the parts add up to the total, exactly.
create or replace view timed_deliveries as
with
    greatest(accepted_at, ifNull(not_before, accepted_at)) as start_at,
    if(delivered_implied, null, delivered_at) as arrived_at,
    assumeNotNull(greatest(ifNull(sent_at, arrived_at), ifNull(arrived_at, sent_at))) as end_at,
    greatest(0, dateDiff('millisecond', start_at, end_at)) as whole,
    if(ready_at is null, null, least(whole, greatest(0, dateDiff('millisecond', start_at, assumeNotNull(ready_at))))) as at_ready,
    if(first_dispatched_at is null, null, least(whole, greatest(0, dateDiff('millisecond', start_at, assumeNotNull(first_dispatched_at))))) as at_first,
    if(dispatched_at is null, null, least(whole, greatest(0, dateDiff('millisecond', start_at, assumeNotNull(dispatched_at))))) as at_last,
    if(sent_at is null, null, least(whole, greatest(0, dateDiff('millisecond', start_at, assumeNotNull(sent_at))))) as at_sent,
    ifNull(at_ready, 0) as m1,
    greatest(m1, ifNull(at_first, 0)) as m2,
    greatest(m2, ifNull(at_last, 0)) as m3,
    greatest(m3, ifNull(at_sent, 0)) as m4
select
    tenant_id, channel, account, conversation_id, message_id, delivery_id, status, attempts, throttles, accepted_at, not_before, sent_at,
    if(sent_at is null, null, greatest(0, dateDiff('millisecond', accepted_at, assumeNotNull(sent_at)))) as accept_to_sent_ms,
    at_ready as waiting_ms,
    if(at_ready is null or at_first is null, null, m2 - m1) as pacing_ms,
    if(at_first is null or at_last is null, null, m3 - m2) as attempts_ms,
    if(at_last is null or at_sent is null, null, m4 - m3) as provider_ms,
    if(at_sent is null or arrived_at is null, null, whole - m4) as receipt_ms,
    whole - ifNull(waiting_ms, 0) - ifNull(pacing_ms, 0) - ifNull(attempts_ms, 0) - ifNull(provider_ms, 0) - ifNull(receipt_ms, 0)
        as other_ms,
    whole as total_ms
from current_deliveries(
    since = {since:DateTime64(3, 'UTC')}, until = {until:DateTime64(3, 'UTC')},
    tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
)
where sent_at is not null or arrived_at is not null;

-- What a channel reports about a delivery after SENT; a test compares it with what the connectors declare.
create or replace view channel_reports as
select each.1 as channel, each.2 as reports_delivered, each.3 as reports_read
from (
    select arrayJoin([
        ('whatsapp', true, true), ('telegram', false, false), ('instagram', false, true), ('internal', true, true)
    ]) as each
);

-- What route accepted against where deliveries stand, by the minute. What route accepted is not kept by account, so `account` is not used.
create or replace view balance_by_minute as
select
    tenant_id,
    channel,
    minute,
    sum(b.route_accepted) as accepted,
    sum(b.known_ended) as ended,
    sum(b.known_pending) as in_flight,
    accepted - ended - in_flight as difference
from (
    select tenant_id, channel, minute, accepted as route_accepted, toInt64(0) as known_ended, toInt64(0) as known_pending
    from accepted_by_minute
    union all
    select tenant_id, channel, minute, 0, sent + delivered + read + failed + expired + cancelled + suppressed, pending
    from deliveries_by_minute
) as b
where minute >= {since:DateTime64(3, 'UTC')} and minute < {until:DateTime64(3, 'UTC')}
    and ({tenant:String} = '' or tenant_id = {tenant:String})
    and ({channel:String} = '' or channel = {channel:String})
    and {account:String} = {account:String}
group by tenant_id, channel, minute;
