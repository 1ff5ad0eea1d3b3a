-- Since when a delivery counts as stalled: it was SENT longer ago than its channel allows, and no receipt came. Null: it does not. A label,
-- never a status; a late receipt clears it. In `delivery_events`: whether it counted as stalled after that transition.
alter table deliveries add column stalled_at timestamptz;
alter table delivery_events add column stalled_at timestamptz;
create index deliveries_stalled on deliveries (channel, account, stalled_at) where stalled_at is not null;

-- Which deliveries are stalled now: on which channel and account, and since when. `chat4all receipts sweep` asks the providers about them.
create view stalled_deliveries as
select tenant_id, channel, account, conversation_id, message_id, delivery_id, recipient, address, provider_message_id, sent_at, stalled_at
  from deliveries
 where stalled_at is not null;
