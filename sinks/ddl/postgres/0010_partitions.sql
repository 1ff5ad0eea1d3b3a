-- Monthly partitions by accepted_at (UTC) for what grows with every message: messages, deliveries, delivery_events, message_states. Old months
-- are dropped as a whole (sinks/retention.py). A row outside all months (the year 1970, the year 9999) is in the partition `..._other`.
--
-- A unique key of a partitioned relation holds within a partition only, and must contain accepted_at. A delivery and a message keep their
-- accepted_at for ever, so a replay meets the row that it made. That an id or a sequence is given once in all months is checked by the merge
-- of stage archive (sinks/staging.py), which is the only writer of a conversation; `chat4all check` checks it again.
--
-- Stop the sinks before this file is applied: it copies all rows, in one transaction.

-- Makes the partitions of a month that are missing; rows of the month that are in `..._other` move there. Called by stage archive for this
-- month and the next two, and by sinks/retention.py for months that were met in `..._other`. In the order in which the archive writes.
create function create_month(month date) returns void language plpgsql as $$
declare
    relation text;
    name text;
    first timestamptz := month::timestamp at time zone 'UTC';
    after_last timestamptz := (month + interval '1 month') at time zone 'UTC';
begin
    foreach relation in array array['messages', 'delivery_events', 'deliveries', 'message_states'] loop
        name := relation || to_char(month, '_YYYY_MM');
        if to_regclass(name) is null then
            execute format('create table %I (like %I including all)', name, relation || '_other');
            execute format(
                'with moved as (delete from %I where accepted_at >= %L and accepted_at < %L returning *) insert into %I select * from moved',
                relation || '_other', first, after_last, name
            );
            execute format('alter table %I attach partition %I for values from (%L) to (%L)', relation, name, first, after_last);
            if relation in ('deliveries', 'message_states') then
                execute format('alter table %I set (fillfactor = %s)', name, case relation when 'deliveries' then 80 else 50 end);
            end if;
        end if;
    end loop;
end $$;

drop view stalled_deliveries, message_roll_ups, counted_message_states;
drop trigger message_states_of_new on deliveries;
drop trigger message_states_of_changed on deliveries;
drop trigger message_states_of_deleted on deliveries;

alter table messages rename to old_messages;
alter table old_messages rename constraint messages_pkey to old_messages_pkey;
alter table old_messages rename constraint messages_tenant_id_conversation_id_seq_key to old_messages_seq;
drop index messages_by_id;
alter table deliveries rename to old_deliveries;
alter table old_deliveries rename constraint deliveries_pkey to old_deliveries_pkey;
drop index deliveries_by_message, deliveries_undelivered, deliveries_stalled;
alter table delivery_events rename to old_delivery_events;
alter table old_delivery_events rename constraint delivery_events_pkey to old_delivery_events_pkey;
alter table message_states rename to old_message_states;
alter table old_message_states rename constraint message_states_pkey to old_message_states_pkey;
alter table old_message_states rename constraint message_states_add_up to old_message_states_add_up;

create table messages (
    tenant_id       text        not null,
    message_id      text        not null,
    conversation_id text        not null,
    home_partition  integer     not null,
    seq             bigint      not null,
    direction       text        not null,
    sender          text        not null,
    kind            text        not null,
    text            text        not null,
    metadata        jsonb       not null,
    requested_at    timestamptz not null,
    accepted_at     timestamptz not null,
    archived_at     timestamptz not null default now(),
    content         jsonb,
    not_before      timestamptz,
    primary key (tenant_id, conversation_id, message_id, accepted_at)
) partition by range (accepted_at);
create table messages_other partition of messages default;
-- A conversation in order, and what has a sequence.
create index messages_by_seq on messages (tenant_id, conversation_id, seq);
-- Every conversation in which a message id stands: a message looked up by its id alone, and reuse seen.
create index messages_by_id on messages (tenant_id, message_id);

create table deliveries (
    tenant_id           text        not null,
    delivery_id         text        not null,
    event_id            text        not null,
    message_id          text        not null,
    conversation_id     text        not null,
    home_partition      integer     not null,
    seq                 bigint      not null,
    channel             text        not null,
    account             text        not null,
    recipient           text        not null,
    address             text        not null,
    version             integer     not null,
    previous_status     text        not null,
    status              text        not null,
    cause               text        not null,
    anomaly             text,
    occurred_at         timestamptz not null,
    observed_at         timestamptz not null,
    requested_at        timestamptz not null,
    accepted_at         timestamptz not null,
    dispatched_at       timestamptz,
    sent_at             timestamptz,
    delivered_at        timestamptz,
    read_at             timestamptz,
    failed_at           timestamptz,
    delivered_implied   boolean     not null,
    attempts            integer     not null,
    resends             integer     not null,
    provider_message_id text,
    reason_code         text,
    reason              text,
    archived_at         timestamptz not null default now(),
    kind                text        not null default 'text',
    stalled_at          timestamptz,
    -- since schema version 4 of delivery_state
    attempt             integer     not null default 0,
    reported            text        not null default '',
    throttled           boolean     not null default false,
    retry_at            timestamptz,
    throttles           integer     not null default 0,
    not_before          timestamptz,
    ready_at            timestamptz,
    first_dispatched_at timestamptz,
    fallback_of         text,
    primary key (tenant_id, delivery_id, accepted_at)
) partition by range (accepted_at);
create table deliveries_other partition of deliveries default with (fillfactor = 80);
-- The timeline of a message starts here.
create index deliveries_by_message on deliveries (tenant_id, message_id, conversation_id);
-- Whatever is not delivered yet, oldest first.
create index deliveries_undelivered on deliveries (accepted_at) where status in ('PENDING', 'SENT');
create index deliveries_stalled on deliveries (channel, account, stalled_at) where stalled_at is not null;
-- What failed, newest first.
create index deliveries_failed on deliveries (tenant_id, accepted_at, delivery_id)
    where status in ('FAILED', 'EXPIRED', 'CANCELLED', 'SUPPRESSED');

create table delivery_events (
    tenant_id           text        not null,
    delivery_id         text        not null,
    event_id            text        not null,
    version             integer     not null,
    previous_status     text        not null,
    status              text        not null,
    cause               text        not null,
    anomaly             text,
    occurred_at         timestamptz not null,
    observed_at         timestamptz not null,
    dispatched_at       timestamptz,
    attempts            integer     not null,
    resends             integer     not null,
    provider_message_id text,
    reason_code         text,
    reason              text,
    archived_at         timestamptz not null default now(),
    stalled_at          timestamptz,
    accepted_at         timestamptz not null,
    attempt             integer     not null default 0,
    reported            text        not null default '',
    throttled           boolean     not null default false,
    retry_at            timestamptz,
    primary key (tenant_id, delivery_id, event_id, accepted_at)
) partition by range (accepted_at);
create table delivery_events_other partition of delivery_events default;

create table message_states (
    tenant_id       text        not null,
    conversation_id text        not null,
    message_id      text        not null,
    deliveries      integer     not null,
    pending         integer     not null,
    sent            integer     not null,
    delivered       integer     not null,
    read            integer     not null,
    failed          integer     not null,
    expired         integer     not null,
    cancelled       integer     not null,
    suppressed      integer     not null,
    changed_at      timestamptz not null, -- when we learned of the newest transition
    accepted_at     timestamptz not null,
    primary key (tenant_id, conversation_id, message_id, accepted_at),
    constraint message_states_add_up check (
        least(pending, sent, delivered, read, failed, expired, cancelled, suppressed) >= 0
        and deliveries = pending + sent + delivered + read + failed + expired + cancelled + suppressed
    )
) partition by range (accepted_at);
create table message_states_other partition of message_states default with (fillfactor = 50);

-- The months of all rows that are there, this month and the next two.
do $$
declare
    month date;
begin
    for month in
        select distinct date_trunc('month', accepted_at at time zone 'UTC')::date
          from (select accepted_at from old_messages union all select accepted_at from old_deliveries) as rows
         where accepted_at >= '2000-01-01' and accepted_at < now() + interval '3 months'
        union
        select (date_trunc('month', now() at time zone 'UTC') + n * interval '1 month')::date from generate_series(0, 2) as n
    loop
        perform create_month(month);
    end loop;
end $$;

insert into messages (tenant_id, message_id, conversation_id, home_partition, seq, direction, sender, kind, text, metadata, requested_at,
                      accepted_at, archived_at, content, not_before)
select tenant_id, message_id, conversation_id, home_partition, seq, direction, sender, kind, text, metadata, requested_at,
       accepted_at, archived_at, content, not_before
  from old_messages;
insert into deliveries (tenant_id, delivery_id, event_id, message_id, conversation_id, home_partition, seq, channel, account, recipient,
                        address, version, previous_status, status, cause, anomaly, occurred_at, observed_at, requested_at, accepted_at,
                        dispatched_at, sent_at, delivered_at, read_at, failed_at, delivered_implied, attempts, resends,
                        provider_message_id, reason_code, reason, archived_at, kind, stalled_at)
select tenant_id, delivery_id, event_id, message_id, conversation_id, home_partition, seq, channel, account, recipient,
       address, version, previous_status, status, cause, anomaly, occurred_at, observed_at, requested_at, accepted_at,
       dispatched_at, sent_at, delivered_at, read_at, failed_at, delivered_implied, attempts, resends,
       provider_message_id, reason_code, reason, archived_at, kind, stalled_at
  from old_deliveries;
insert into delivery_events (tenant_id, delivery_id, event_id, version, previous_status, status, cause, anomaly, occurred_at, observed_at,
                             dispatched_at, attempts, resends, provider_message_id, reason_code, reason, archived_at, stalled_at,
                             accepted_at)
select e.tenant_id, e.delivery_id, e.event_id, e.version, e.previous_status, e.status, e.cause, e.anomaly, e.occurred_at, e.observed_at,
       e.dispatched_at, e.attempts, e.resends, e.provider_message_id, e.reason_code, e.reason, e.archived_at, e.stalled_at,
       coalesce(d.accepted_at, e.occurred_at)
  from old_delivery_events e
  left join old_deliveries d using (tenant_id, delivery_id);

-- From here on, everything of 0008 and 0009 that hung on the old relations, with accepted_at in the key of message_states.
create view stalled_deliveries as
select tenant_id, channel, account, conversation_id, message_id, delivery_id, recipient, address, provider_message_id, sent_at, stalled_at
  from deliveries
 where stalled_at is not null;

create view counted_message_states as
select tenant_id, conversation_id, message_id, count(*)::integer as deliveries,
       (count(*) filter (where status = 'PENDING'))::integer as pending, (count(*) filter (where status = 'SENT'))::integer as sent,
       (count(*) filter (where status = 'DELIVERED'))::integer as delivered, (count(*) filter (where status = 'READ'))::integer as read,
       (count(*) filter (where status = 'FAILED'))::integer as failed, (count(*) filter (where status = 'EXPIRED'))::integer as expired,
       (count(*) filter (where status = 'CANCELLED'))::integer as cancelled,
       (count(*) filter (where status = 'SUPPRESSED'))::integer as suppressed,
       max(observed_at) as changed_at, accepted_at
  from deliveries
 group by tenant_id, conversation_id, message_id, accepted_at;

create view message_roll_ups as
select tenant_id, conversation_id, message_id, deliveries,
       case sent + delivered + read when 0 then 'none' when deliveries then 'all' else 'some' end as sent,
       case delivered + read when 0 then 'none' when deliveries then 'all' else 'some' end as delivered,
       case read when 0 then 'none' when deliveries then 'all' else 'some' end as read,
       case failed + expired + cancelled + suppressed when 0 then 'none' when deliveries then 'all' else 'some' end as failed,
       case when read > 0 then 'READ' when delivered > 0 then 'DELIVERED' when sent > 0 then 'SENT' when pending > 0 then 'PENDING'
            when suppressed > 0 then 'SUPPRESSED' when cancelled > 0 then 'CANCELLED' when expired > 0 then 'EXPIRED'
            else 'FAILED' end as best,
       case when failed > 0 then 'FAILED' when expired > 0 then 'EXPIRED' when cancelled > 0 then 'CANCELLED'
            when suppressed > 0 then 'SUPPRESSED' when pending > 0 then 'PENDING' when sent > 0 then 'SENT'
            when delivered > 0 then 'DELIVERED' else 'READ' end as worst,
       changed_at, accepted_at
  from message_states;

create or replace function count_new_deliveries() returns trigger language plpgsql as $$
begin
    insert into message_states as m
    select tenant_id, conversation_id, message_id, count(*),
           count(*) filter (where status = 'PENDING'), count(*) filter (where status = 'SENT'),
           count(*) filter (where status = 'DELIVERED'), count(*) filter (where status = 'READ'),
           count(*) filter (where status = 'FAILED'), count(*) filter (where status = 'EXPIRED'),
           count(*) filter (where status = 'CANCELLED'), count(*) filter (where status = 'SUPPRESSED'),
           max(observed_at), accepted_at
      from after_change
     group by tenant_id, conversation_id, message_id, accepted_at
     order by tenant_id, conversation_id, message_id, accepted_at
    on conflict (tenant_id, conversation_id, message_id, accepted_at) do update
       set deliveries = m.deliveries + excluded.deliveries, pending = m.pending + excluded.pending,
           sent = m.sent + excluded.sent, delivered = m.delivered + excluded.delivered,
           read = m.read + excluded.read, failed = m.failed + excluded.failed,
           expired = m.expired + excluded.expired, cancelled = m.cancelled + excluded.cancelled,
           suppressed = m.suppressed + excluded.suppressed,
           changed_at = greatest(m.changed_at, excluded.changed_at);
    return null;
end $$;

create or replace function count_changed_deliveries() returns trigger language plpgsql
set enable_hashjoin = off set enable_mergejoin = off as $$
begin
    update message_states m
       set pending = m.pending + d.pending, sent = m.sent + d.sent,
           delivered = m.delivered + d.delivered, read = m.read + d.read,
           failed = m.failed + d.failed, expired = m.expired + d.expired,
           cancelled = m.cancelled + d.cancelled, suppressed = m.suppressed + d.suppressed,
           changed_at = greatest(m.changed_at, d.changed_at)
      from (
            select tenant_id, conversation_id, message_id, accepted_at,
                   coalesce(sum(n) filter (where status = 'PENDING'), 0) as pending,
                   coalesce(sum(n) filter (where status = 'SENT'), 0) as sent,
                   coalesce(sum(n) filter (where status = 'DELIVERED'), 0) as delivered,
                   coalesce(sum(n) filter (where status = 'READ'), 0) as read,
                   coalesce(sum(n) filter (where status = 'FAILED'), 0) as failed,
                   coalesce(sum(n) filter (where status = 'EXPIRED'), 0) as expired,
                   coalesce(sum(n) filter (where status = 'CANCELLED'), 0) as cancelled,
                   coalesce(sum(n) filter (where status = 'SUPPRESSED'), 0) as suppressed,
                   max(observed_at) as changed_at
              from (
                    select tenant_id, conversation_id, message_id, accepted_at, status, observed_at, 1 as n from after_change
                    union all
                    select tenant_id, conversation_id, message_id, accepted_at, status, observed_at, -1 from before_change
                   ) as sides
             group by tenant_id, conversation_id, message_id, accepted_at
             order by tenant_id, conversation_id, message_id, accepted_at
           ) as d
     where m.tenant_id = d.tenant_id and m.conversation_id = d.conversation_id and m.message_id = d.message_id
       and m.accepted_at = d.accepted_at;
    return null;
end $$;

create or replace function count_messages_anew() returns trigger language plpgsql as $$
begin
    delete from message_states m using before_change b
     where m.tenant_id = b.tenant_id and m.conversation_id = b.conversation_id and m.message_id = b.message_id
       and m.accepted_at = b.accepted_at;
    insert into message_states
    select c.*
      from (select distinct tenant_id, conversation_id, message_id, accepted_at from before_change) as b
      join counted_message_states c using (tenant_id, conversation_id, message_id, accepted_at);
    return null;
end $$;

insert into message_states select * from counted_message_states;
create trigger message_states_of_new after insert on deliveries
    referencing new table as after_change for each statement execute function count_new_deliveries();
create trigger message_states_of_changed after update on deliveries
    referencing old table as before_change new table as after_change for each statement execute function count_changed_deliveries();
create trigger message_states_of_deleted after delete on deliveries
    referencing old table as before_change for each statement execute function count_messages_anew();

drop table old_messages, old_deliveries, old_delivery_events, old_message_states;
