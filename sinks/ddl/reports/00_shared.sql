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
    toUnixTimestamp64Milli(accepted_at) as accepted_ms,
    if(not_before is null, accepted_ms, greatest(accepted_ms, toUnixTimestamp64Milli(assumeNotNull(not_before)))) as start_ms,
    ready_at is not null as has_ready,
    first_dispatched_at is not null as has_first,
    dispatched_at is not null as has_last,
    sent_at is not null as has_sent,
    delivered_at is not null and not delivered_implied as has_arrived,
    toUnixTimestamp64Milli(assumeNotNull(sent_at)) as sent_ms,
    toUnixTimestamp64Milli(assumeNotNull(delivered_at)) as arrived_ms,
    greatest(if(has_sent, sent_ms, arrived_ms), if(has_arrived, arrived_ms, sent_ms)) as end_ms,
    greatest(0, end_ms - start_ms) as whole,
    if(has_ready, greatest(0, least(whole, toUnixTimestamp64Milli(assumeNotNull(ready_at)) - start_ms)), 0) as m1,
    if(has_first, greatest(m1, least(whole, toUnixTimestamp64Milli(assumeNotNull(first_dispatched_at)) - start_ms)), m1) as m2,
    if(has_last, greatest(m2, least(whole, toUnixTimestamp64Milli(assumeNotNull(dispatched_at)) - start_ms)), m2) as m3,
    if(has_sent, greatest(m3, least(whole, sent_ms - start_ms)), m3) as m4,
    if(has_first and has_ready, m2 - m1, 0) as pacing,
    if(has_last and has_first, m3 - m2, 0) as repeating,
    if(has_sent and has_last, m4 - m3, 0) as calling,
    if(has_arrived and has_sent, whole - m4, 0) as arriving
select
    tenant_id, channel, account, conversation_id, message_id, delivery_id, status, attempts, throttles, accepted_at, not_before, sent_at,
    if(has_sent, greatest(0, sent_ms - accepted_ms), null) as accept_to_sent_ms,
    if(has_ready, m1, null) as waiting_ms,
    if(has_first and has_ready, pacing, null) as pacing_ms,
    if(has_last and has_first, repeating, null) as attempts_ms,
    if(has_sent and has_last, calling, null) as provider_ms,
    if(has_arrived and has_sent, arriving, null) as receipt_ms,
    whole - m1 - pacing - repeating - calling - arriving as other_ms,
    whole as total_ms
from current_deliveries(
    since = {since:DateTime64(3, 'UTC')}, until = {until:DateTime64(3, 'UTC')},
    tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
)
where has_sent or has_arrived;

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
