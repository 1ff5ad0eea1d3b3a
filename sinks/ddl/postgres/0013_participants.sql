-- Who takes part in a conversation: each person (user id, or address) who got a delivery in it or wrote in it. It finds the conversations of a
-- person over all channels, also on those that report nothing, where a member has no cursor. Stage archive adds rows.
create table participants (
    tenant_id       text not null,
    person          text not null,
    conversation_id text not null,
    primary key (tenant_id, person, conversation_id)
);
create index participants_by_conversation on participants (tenant_id, conversation_id);
insert into participants
select distinct tenant_id, recipient, conversation_id from deliveries
union
select distinct tenant_id, sender, conversation_id from messages where direction = 'INBOUND';
