-- Since when a delivery counts as stalled: it was SENT longer ago than its channel allows, and no receipt came. Null: it does not. A label,
-- never a status, so no count of the roll-ups changes.
alter table delivery_events add column if not exists stalled_at Nullable(DateTime64(3, 'UTC'));
alter table deliveries add column if not exists stalled_at Nullable(DateTime64(3, 'UTC'));
-- The view's list of columns was fixed when it was created.
alter table deliveries_from_events modify query select * from delivery_events;

-- Which deliveries are stalled now: on which channel and account, and since when. Ids only; PostgreSQL has the recipients.
create or replace view stalled_deliveries as
select tenant_id, channel, account, conversation_id, message_id, delivery_id, sent_at, stalled_at
from deliveries final
where stalled_at is not null
order by channel, account, stalled_at;
