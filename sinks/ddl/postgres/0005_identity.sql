-- A message is its tenant, its conversation and its id: the same id in another conversation is another message.
alter table messages drop constraint messages_pkey;
alter table messages add primary key (tenant_id, conversation_id, message_id);
-- Every conversation in which a message id stands: a message looked up by its id alone, and reuse seen.
create index messages_by_id on messages (tenant_id, message_id);

alter table message_conflicts drop constraint message_conflicts_pkey;
alter table message_conflicts add primary key (tenant_id, conversation_id, message_id, seq);

drop index deliveries_by_message;
create index deliveries_by_message on deliveries (tenant_id, message_id, conversation_id);
