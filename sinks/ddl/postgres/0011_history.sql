-- The history beside messages and deliveries: conversations, contacts, suppressions, dead letters, receipts that changed nothing or found no
-- delivery, what operators did, and what was erased. sinks/history.py reads it.

-- Every conversation with its newest message. `members` is what the topic `conversations` says; empty for one that only messages made.
create table conversations (
    tenant_id        text        not null,
    conversation_id  text        not null,
    home_partition   integer,
    members          text[]      not null default '{}',
    members_at       timestamptz,          -- when the members last changed
    first_message_at timestamptz,
    last_message_at  timestamptz,
    last_seq         bigint      not null default 0 check (last_seq >= 0),
    archived_at      timestamptz not null default now(),
    primary key (tenant_id, conversation_id)
) with (fillfactor = 80);
create index conversations_by_time on conversations (tenant_id, last_message_at desc, conversation_id);
insert into conversations (tenant_id, conversation_id, home_partition, first_message_at, last_message_at, last_seq)
select tenant_id, conversation_id, max(home_partition), min(accepted_at), max(accepted_at), greatest(max(seq), 0)
  from messages group by tenant_id, conversation_id;

-- The conversations of a person: `member` is the user id, or the address of a person without a contact.
create index cursors_by_member on cursors (tenant_id, member, conversation_id);
create view members as
select c.tenant_id, c.conversation_id, m.member, k.last_delivered_seq, k.last_read_seq, k.newest_seq, c.last_seq, k.changed_at
  from conversations c
  cross join lateral (
        select unnest(c.members) as member
        union
        select member from cursors where tenant_id = c.tenant_id and conversation_id = c.conversation_id
       ) as m
  left join cursors k on k.tenant_id = c.tenant_id and k.conversation_id = c.conversation_id and k.member = m.member;

-- The newest state of each contact. `addresses` is [{"channel", "address", "account"}, ...] in order of preference.
create table contacts (
    tenant_id   text        not null,
    user_id     text        not null,
    addresses   jsonb       not null,
    opt_outs    text[]      not null default '{}',
    time_zone   text,
    updated_at  timestamptz not null,
    archived_at timestamptz not null default now(),
    primary key (tenant_id, user_id)
);
create index contacts_by_address on contacts using gin (addresses jsonb_path_ops);

-- Whether an account's messages to an address are suppressed, and why; newest state of the topic `suppressions`. `address` has one form for
-- each person (schemas/person_addresses.py), as in the topic's key.
create table suppressions (
    tenant_id   text        not null,
    channel     text        not null,
    account     text        not null,
    address     text        not null,
    suppressed  boolean     not null,
    reason      text        not null,
    changed_at  timestamptz not null,
    archived_at timestamptz not null default now(),
    primary key (tenant_id, channel, account, address)
);

-- What a stage or the gateway refused. `key`, `value` and `headers` are null after an erasure.
create table dead_letters (
    tenant_id        text        not null,
    dead_letter_id   text        not null,
    stage            text        not null,
    cause            text        not null,
    detail           text        not null,
    source_topic     text        not null,
    source_partition integer     not null,
    source_offset    bigint      not null,
    source_timestamp timestamptz not null,
    key              bytea,
    value            bytea,
    headers          jsonb,
    refused_at       timestamptz not null,
    conversation_id  text,                 -- of the record inside, if it could be read
    erased_at        timestamptz,
    archived_at      timestamptz not null default now(),
    primary key (tenant_id, dead_letter_id)
);
create index dead_letters_by_time on dead_letters (tenant_id, refused_at, dead_letter_id);

-- Receipts for which no delivery was found: the content of such dead letters (causes orphan_receipt, wrong_tenant, wrong_partition and
-- too_many_waiting of topic receipts). A binding that comes later takes the receipt to its delivery after all: then its transition has the
-- same event_id.
create table orphan_receipts (
    tenant_id           text        not null,
    event_id            text        not null,
    channel             text        not null,
    account             text        not null,
    provider_message_id text        not null,
    status              text        not null,
    cause               text        not null,
    provider_at         timestamptz not null,
    received_at         timestamptz not null,
    refused_at          timestamptz not null,
    error_code          text,
    dead_letter_id      text        not null,
    archived_at         timestamptz not null default now(),
    primary key (tenant_id, event_id, dead_letter_id)
);
create index orphan_receipts_by_time on orphan_receipts (tenant_id, refused_at, event_id);

-- One row an attempt that ended: a call to a provider, or a call whose end nobody saw. `class` is the outcome: accepted, retry_later,
-- rejected, unknown.
create view attempts as
select e.tenant_id, e.delivery_id, e.accepted_at, e.attempt,
       case e.cause when 'ACCEPTED' then 'accepted' when 'RETRY_LATER' then 'retry_later' when 'EXHAUSTED' then 'retry_later'
                    when 'UNKNOWN' then 'unknown' else 'rejected' end as class,
       e.cause, e.reason_code, e.reason, e.throttled, e.dispatched_at, e.occurred_at as ended_at, e.retry_at, e.provider_message_id
  from delivery_events e
 where e.cause in ('ACCEPTED', 'RETRY_LATER', 'EXHAUSTED', 'UNKNOWN', 'REJECTED') and e.attempt > 0;

-- Receipts of a delivery that changed no status, and why. (A receipt repeated with the same id is not stored again; metrics count it.)
create view ignored_receipts as
select e.tenant_id, e.delivery_id, e.accepted_at, e.event_id, e.reported, e.status, e.occurred_at, e.observed_at,
       case when e.anomaly is not null then e.anomaly
            when e.reported = e.status then 'already ' || e.status
            else e.reported || ' after ' || e.status end as reason
  from delivery_events e
 where e.cause = 'RECEIPT' and e.reported <> '' and e.previous_status = e.status;

-- What operators did with a command: erase, replay, and whatever changes something. Never deleted by retention; `detail` holds no address.
create table operator_actions (
    action_id  text        primary key,
    action     text        not null,
    tenant_id  text        not null,
    operator   text        not null,
    detail     jsonb       not null,
    began_at   timestamptz not null default now(),
    ended_at   timestamptz,
    result     jsonb
);

-- Who was erased and when. Stage archive blanks what it meets again of them in Kafka (a replay, or records that were still on their way).
-- `person` is the SHA-256 of tenant, NUL, channel, NUL, address (or user id, with an empty channel): nobody can be read from it.
create table erased_people (
    tenant_id  text        not null,
    person     text        not null,
    erased_at  timestamptz not null,
    action_id  text        not null,
    primary key (tenant_id, person)
);

-- Full-text search of messages, in Portuguese and in English and by plain words, each without accents: `search_words(text) @@ ...`.
create extension if not exists unaccent;
create text search configuration plain_unaccent (copy = simple);
alter text search configuration plain_unaccent alter mapping for hword, hword_part, word with unaccent, simple;
create text search configuration portuguese_unaccent (copy = portuguese);
alter text search configuration portuguese_unaccent alter mapping for hword, hword_part, word with unaccent, portuguese_stem;
create text search configuration english_unaccent (copy = english);
alter text search configuration english_unaccent alter mapping for hword, hword_part, word with unaccent, english_stem;
-- Words after the first 20,000 characters are not found: a word list may have 1 MB, whatever the text.
create function search_words(body text) returns tsvector language sql immutable parallel safe as $$
    select to_tsvector('public.plain_unaccent'::regconfig, left(body, 20000))
        || to_tsvector('public.portuguese_unaccent'::regconfig, left(body, 20000))
        || to_tsvector('public.english_unaccent'::regconfig, left(body, 20000))
$$;
create index messages_by_words on messages using gin (search_words(text));
