-- When a message may be sent at the earliest; null for at once.
alter table messages add column not_before timestamptz;
alter table message_conflicts add column not_before timestamptz;
