-- What the questions of sinks/history.py need beside 0010 and 0011. An index on a partitioned relation is made for every month, also for those
-- that come later.

-- What failed with one cause, newest first. All of its columns are in the conditions of other indexes already or change with the status.
create index deliveries_failed_by_cause on deliveries (tenant_id, status, (coalesce(reason_code, '')), accepted_at, delivery_id)
    where status in ('FAILED', 'EXPIRED', 'CANCELLED', 'SUPPRESSED');
-- Receipts that changed no status.
create index delivery_events_ignored on delivery_events (tenant_id, accepted_at, delivery_id, version)
    where cause = 'RECEIPT' and reported <> '' and previous_status = status;
-- Conversations by a member that the topic `conversations` names.
create index conversations_by_member on conversations using gin (members);
create index operator_actions_by_time on operator_actions (tenant_id, began_at, action_id);

-- `version` puts the attempts and the ignored receipts of a delivery in order, and tells two of them apart.
create or replace view attempts as
select e.tenant_id, e.delivery_id, e.accepted_at, e.attempt,
       case e.cause when 'ACCEPTED' then 'accepted' when 'RETRY_LATER' then 'retry_later' when 'EXHAUSTED' then 'retry_later'
                    when 'UNKNOWN' then 'unknown' else 'rejected' end as class,
       e.cause, e.reason_code, e.reason, e.throttled, e.dispatched_at, e.occurred_at as ended_at, e.retry_at, e.provider_message_id,
       e.version
  from delivery_events e
 where e.cause in ('ACCEPTED', 'RETRY_LATER', 'EXHAUSTED', 'UNKNOWN', 'REJECTED') and e.attempt > 0;

create or replace view ignored_receipts as
select e.tenant_id, e.delivery_id, e.accepted_at, e.event_id, e.reported, e.status, e.occurred_at, e.observed_at,
       case when e.anomaly is not null then e.anomaly
            when e.reported = e.status then 'already ' || e.status
            else e.reported || ' after ' || e.status end as reason,
       e.version
  from delivery_events e
 where e.cause = 'RECEIPT' and e.reported <> '' and e.previous_status = e.status;
