-- How far each sink has written each partition: advanced in the same transaction as the rows, only from the expected old value.
create table sink_offsets (
    sink        text        not null,
    topic       text        not null,
    partition   integer     not null,
    next_offset bigint      not null check (next_offset >= 0),
    updated_at  timestamptz not null default now(),
    primary key (sink, topic, partition)
);
