-- The history. Rules of content (sinks/storable_text.py): U+0000, which PostgreSQL cannot hold, is stored as U+2400 U+0030 and U+2400 itself
-- as U+2400 U+2400; a key over 512 bytes is shortened to its first 100 characters and a digest; a time outside 1900..2299 is held at
-- the limit. There are no foreign keys: a message and its deliveries come from two topics, in any order.

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
    primary key (tenant_id, message_id),
    -- The proof that a number is given once; also the conversation's history in order.
    unique (tenant_id, conversation_id, seq)
);

-- Messages that would break a key of `messages`: an id met again with another sequence, or a sequence given twice. Kept whole, so that
-- nothing is lost and the archive goes on; any row here is a fault upstream, counted by stage archive and by the verdict.
create table message_conflicts (
    like messages including defaults,
    primary key (tenant_id, message_id, conversation_id, seq)
);

-- The latest state of every delivery: the row with the highest version ever seen.
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
    primary key (tenant_id, delivery_id)
) with (fillfactor = 80);

-- The timeline of a message starts here.
create index deliveries_by_message on deliveries (tenant_id, message_id);
-- Whatever is not delivered yet, oldest first.
create index deliveries_undelivered on deliveries (accepted_at) where status in ('PENDING', 'SENT');

-- Every transition of every delivery, once.
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
    primary key (tenant_id, delivery_id, event_id)
);
