-- How the deliveries of a message stand: how many there are, and how many have each status now; one row a message. Triggers keep it right
-- in the transaction that changes `deliveries`, from the rows before and after. So it is right whoever writes, also a worker of the release
-- before, and a receipt costs one update of one row, however many members a group has.
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
    primary key (tenant_id, conversation_id, message_id),
    constraint message_states_add_up check (
        least(pending, sent, delivered, read, failed, expired, cancelled, suppressed) >= 0
        and deliveries = pending + sent + delivered + read + failed + expired + cancelled + suppressed
    )
) with (fillfactor = 50); -- every receipt updates a row: leave it space on its page

-- The same counted anew from all deliveries: at any time equal to `message_states`.
create view counted_message_states as
select tenant_id, conversation_id, message_id, count(*)::integer as deliveries,
       (count(*) filter (where status = 'PENDING'))::integer as pending, (count(*) filter (where status = 'SENT'))::integer as sent,
       (count(*) filter (where status = 'DELIVERED'))::integer as delivered, (count(*) filter (where status = 'READ'))::integer as read,
       (count(*) filter (where status = 'FAILED'))::integer as failed, (count(*) filter (where status = 'EXPIRED'))::integer as expired,
       (count(*) filter (where status = 'CANCELLED'))::integer as cancelled,
       (count(*) filter (where status = 'SUPPRESSED'))::integer as suppressed,
       max(observed_at) as changed_at
  from deliveries
 group by tenant_id, conversation_id, message_id;

-- Whether all, some or none of a message's deliveries were sent, delivered or read (that status or a further one), or failed (FAILED,
-- EXPIRED, CANCELLED or SUPPRESSED); and the best and the worst status among them.
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
       changed_at
  from message_states;

create function count_new_deliveries() returns trigger language plpgsql as $$
begin
    insert into message_states as m
    select tenant_id, conversation_id, message_id, count(*),
           count(*) filter (where status = 'PENDING'), count(*) filter (where status = 'SENT'),
           count(*) filter (where status = 'DELIVERED'), count(*) filter (where status = 'READ'),
           count(*) filter (where status = 'FAILED'), count(*) filter (where status = 'EXPIRED'),
           count(*) filter (where status = 'CANCELLED'), count(*) filter (where status = 'SUPPRESSED'),
           max(observed_at)
      from after_change
     group by tenant_id, conversation_id, message_id
     order by tenant_id, conversation_id, message_id
    on conflict (tenant_id, conversation_id, message_id) do update
       set deliveries = m.deliveries + excluded.deliveries, pending = m.pending + excluded.pending,
           sent = m.sent + excluded.sent, delivered = m.delivered + excluded.delivered,
           read = m.read + excluded.read, failed = m.failed + excluded.failed,
           expired = m.expired + excluded.expired, cancelled = m.cancelled + excluded.cancelled,
           suppressed = m.suppressed + excluded.suppressed,
           changed_at = greatest(m.changed_at, excluded.changed_at);
    return null;
end $$;

-- A changed delivery takes one from its status before and adds one to its status after. It keeps its message, which has a row. A nested loop
-- over the key, because a plan made for many messages must not read all of them for a few.
create function count_changed_deliveries() returns trigger language plpgsql
set enable_hashjoin = off set enable_mergejoin = off as $$
begin
    update message_states m
       set pending = m.pending + d.pending, sent = m.sent + d.sent,
           delivered = m.delivered + d.delivered, read = m.read + d.read,
           failed = m.failed + d.failed, expired = m.expired + d.expired,
           cancelled = m.cancelled + d.cancelled, suppressed = m.suppressed + d.suppressed,
           changed_at = greatest(m.changed_at, d.changed_at)
      from (
            select tenant_id, conversation_id, message_id,
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
                    select tenant_id, conversation_id, message_id, status, observed_at, 1 as n from after_change
                    union all
                    select tenant_id, conversation_id, message_id, status, observed_at, -1 from before_change
                   ) as sides
             group by tenant_id, conversation_id, message_id
             order by tenant_id, conversation_id, message_id
           ) as d
     where m.tenant_id = d.tenant_id and m.conversation_id = d.conversation_id and m.message_id = d.message_id;
    return null;
end $$;

-- Nothing of ours deletes deliveries. If somebody does by hand, their messages are counted anew.
create function count_messages_anew() returns trigger language plpgsql as $$
begin
    delete from message_states m using before_change b
     where m.tenant_id = b.tenant_id and m.conversation_id = b.conversation_id and m.message_id = b.message_id;
    insert into message_states
    select c.*
      from (select distinct tenant_id, conversation_id, message_id from before_change) as b
      join counted_message_states c using (tenant_id, conversation_id, message_id);
    return null;
end $$;

-- Before the lock is taken, no writer is in the middle of a change; afterwards the triggers see every change.
lock table deliveries in share row exclusive mode;
insert into message_states select * from counted_message_states;
create trigger message_states_of_new after insert on deliveries
    referencing new table as after_change for each statement execute function count_new_deliveries();
create trigger message_states_of_changed after update on deliveries
    referencing old table as before_change new table as after_change for each statement execute function count_changed_deliveries();
create trigger message_states_of_deleted after delete on deliveries
    referencing old table as before_change for each statement execute function count_messages_anew();
