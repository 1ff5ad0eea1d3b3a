-- How far each member of a conversation has been delivered and has read, in sequences of the conversation. Null: not observable, no channel
-- of the member reports it. Unread messages are those of the member's deliveries after last_read_seq that have not failed.
create table cursors (
    tenant_id          text        not null,
    conversation_id    text        not null,
    home_partition     integer     not null,
    member             text        not null,
    version            integer     not null,
    last_delivered_seq bigint,
    last_read_seq      bigint,
    newest_seq         bigint      not null,
    changed_at         timestamptz not null,
    archived_at        timestamptz not null default now(),
    primary key (tenant_id, conversation_id, member),
    constraint cursors_in_order check (
        coalesce(last_read_seq, 0) >= 0
        and (last_read_seq is null or last_read_seq <= coalesce(last_delivered_seq, newest_seq))
        and coalesce(last_delivered_seq, 0) between 0 and newest_seq
    )
) with (fillfactor = 80);
