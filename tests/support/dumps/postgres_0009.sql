-- PostgreSQL at 0009_message_states.sql, the release before the monthly partitions: tests/integration/test_migrate_release.py starts from it.
-- Made at commit e45d2d2 by `pg_dump --no-owner --no-privileges --rows-per-insert=1000` after stage archive had written these rows; without
-- comments and psql commands.
--

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

CREATE FUNCTION public.count_changed_deliveries() RETURNS trigger
    LANGUAGE plpgsql
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
begin
    update message_states m
       set pending = m.pending + d.pending, sent = m.sent + d.sent,
           delivered = m.delivered + d.delivered, read = m.read + d.read,
           failed = m.failed + d.failed, expired = m.expired + d.expired,
           cancelled = m.cancelled + d.cancelled, suppressed = m.suppressed + d.suppressed,
           changed_at = greatest(m.changed_at, d.changed_at)
      from (
            select tenant_id, conversation_id, message_id,
                   coalesce(sum(n) filter (where status = 'PENDING'), 0) as pending,
                   coalesce(sum(n) filter (where status = 'SENT'), 0) as sent,
                   coalesce(sum(n) filter (where status = 'DELIVERED'), 0) as delivered,
                   coalesce(sum(n) filter (where status = 'READ'), 0) as read,
                   coalesce(sum(n) filter (where status = 'FAILED'), 0) as failed,
                   coalesce(sum(n) filter (where status = 'EXPIRED'), 0) as expired,
                   coalesce(sum(n) filter (where status = 'CANCELLED'), 0) as cancelled,
                   coalesce(sum(n) filter (where status = 'SUPPRESSED'), 0) as suppressed,
                   max(observed_at) as changed_at
              from (
                    select tenant_id, conversation_id, message_id, status, observed_at, 1 as n from after_change
                    union all
                    select tenant_id, conversation_id, message_id, status, observed_at, -1 from before_change
                   ) as sides
             group by tenant_id, conversation_id, message_id
             order by tenant_id, conversation_id, message_id
           ) as d
     where m.tenant_id = d.tenant_id and m.conversation_id = d.conversation_id and m.message_id = d.message_id;
    return null;
end $$;

CREATE FUNCTION public.count_messages_anew() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
    delete from message_states m using before_change b
     where m.tenant_id = b.tenant_id and m.conversation_id = b.conversation_id and m.message_id = b.message_id;
    insert into message_states
    select c.*
      from (select distinct tenant_id, conversation_id, message_id from before_change) as b
      join counted_message_states c using (tenant_id, conversation_id, message_id);
    return null;
end $$;

CREATE FUNCTION public.count_new_deliveries() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
    insert into message_states as m
    select tenant_id, conversation_id, message_id, count(*),
           count(*) filter (where status = 'PENDING'), count(*) filter (where status = 'SENT'),
           count(*) filter (where status = 'DELIVERED'), count(*) filter (where status = 'READ'),
           count(*) filter (where status = 'FAILED'), count(*) filter (where status = 'EXPIRED'),
           count(*) filter (where status = 'CANCELLED'), count(*) filter (where status = 'SUPPRESSED'),
           max(observed_at)
      from after_change
     group by tenant_id, conversation_id, message_id
     order by tenant_id, conversation_id, message_id
    on conflict (tenant_id, conversation_id, message_id) do update
       set deliveries = m.deliveries + excluded.deliveries, pending = m.pending + excluded.pending,
           sent = m.sent + excluded.sent, delivered = m.delivered + excluded.delivered,
           read = m.read + excluded.read, failed = m.failed + excluded.failed,
           expired = m.expired + excluded.expired, cancelled = m.cancelled + excluded.cancelled,
           suppressed = m.suppressed + excluded.suppressed,
           changed_at = greatest(m.changed_at, excluded.changed_at);
    return null;
end $$;

SET default_tablespace = '';

SET default_table_access_method = heap;

CREATE TABLE public.applied_migrations (
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.deliveries (
    tenant_id text NOT NULL,
    delivery_id text NOT NULL,
    event_id text NOT NULL,
    message_id text NOT NULL,
    conversation_id text NOT NULL,
    home_partition integer NOT NULL,
    seq bigint NOT NULL,
    channel text NOT NULL,
    account text NOT NULL,
    recipient text NOT NULL,
    address text NOT NULL,
    version integer NOT NULL,
    previous_status text NOT NULL,
    status text NOT NULL,
    cause text NOT NULL,
    anomaly text,
    occurred_at timestamp with time zone NOT NULL,
    observed_at timestamp with time zone NOT NULL,
    requested_at timestamp with time zone NOT NULL,
    accepted_at timestamp with time zone NOT NULL,
    dispatched_at timestamp with time zone,
    sent_at timestamp with time zone,
    delivered_at timestamp with time zone,
    read_at timestamp with time zone,
    failed_at timestamp with time zone,
    delivered_implied boolean NOT NULL,
    attempts integer NOT NULL,
    resends integer NOT NULL,
    provider_message_id text,
    reason_code text,
    reason text,
    archived_at timestamp with time zone DEFAULT now() NOT NULL,
    kind text DEFAULT 'text'::text NOT NULL,
    stalled_at timestamp with time zone
)
WITH (fillfactor='80');

CREATE VIEW public.counted_message_states AS
 SELECT tenant_id,
    conversation_id,
    message_id,
    (count(*))::integer AS deliveries,
    (count(*) FILTER (WHERE (status = 'PENDING'::text)))::integer AS pending,
    (count(*) FILTER (WHERE (status = 'SENT'::text)))::integer AS sent,
    (count(*) FILTER (WHERE (status = 'DELIVERED'::text)))::integer AS delivered,
    (count(*) FILTER (WHERE (status = 'READ'::text)))::integer AS read,
    (count(*) FILTER (WHERE (status = 'FAILED'::text)))::integer AS failed,
    (count(*) FILTER (WHERE (status = 'EXPIRED'::text)))::integer AS expired,
    (count(*) FILTER (WHERE (status = 'CANCELLED'::text)))::integer AS cancelled,
    (count(*) FILTER (WHERE (status = 'SUPPRESSED'::text)))::integer AS suppressed,
    max(observed_at) AS changed_at
   FROM public.deliveries
  GROUP BY tenant_id, conversation_id, message_id;

CREATE TABLE public.cursors (
    tenant_id text NOT NULL,
    conversation_id text NOT NULL,
    home_partition integer NOT NULL,
    member text NOT NULL,
    version integer NOT NULL,
    last_delivered_seq bigint,
    last_read_seq bigint,
    newest_seq bigint NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    archived_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT cursors_in_order CHECK (((COALESCE(last_read_seq, (0)::bigint) >= 0) AND ((last_read_seq IS NULL) OR (last_read_seq <= COALESCE(last_delivered_seq, newest_seq))) AND ((COALESCE(last_delivered_seq, (0)::bigint) >= 0) AND (COALESCE(last_delivered_seq, (0)::bigint) <= newest_seq))))
)
WITH (fillfactor='80');

CREATE TABLE public.delivery_events (
    tenant_id text NOT NULL,
    delivery_id text NOT NULL,
    event_id text NOT NULL,
    version integer NOT NULL,
    previous_status text NOT NULL,
    status text NOT NULL,
    cause text NOT NULL,
    anomaly text,
    occurred_at timestamp with time zone NOT NULL,
    observed_at timestamp with time zone NOT NULL,
    dispatched_at timestamp with time zone,
    attempts integer NOT NULL,
    resends integer NOT NULL,
    provider_message_id text,
    reason_code text,
    reason text,
    archived_at timestamp with time zone DEFAULT now() NOT NULL,
    stalled_at timestamp with time zone
);

CREATE TABLE public.message_conflicts (
    tenant_id text CONSTRAINT messages_tenant_id_not_null NOT NULL,
    message_id text CONSTRAINT messages_message_id_not_null NOT NULL,
    conversation_id text CONSTRAINT messages_conversation_id_not_null NOT NULL,
    home_partition integer CONSTRAINT messages_home_partition_not_null NOT NULL,
    seq bigint CONSTRAINT messages_seq_not_null NOT NULL,
    direction text CONSTRAINT messages_direction_not_null NOT NULL,
    sender text CONSTRAINT messages_sender_not_null NOT NULL,
    kind text CONSTRAINT messages_kind_not_null NOT NULL,
    text text CONSTRAINT messages_text_not_null NOT NULL,
    metadata jsonb CONSTRAINT messages_metadata_not_null NOT NULL,
    requested_at timestamp with time zone CONSTRAINT messages_requested_at_not_null NOT NULL,
    accepted_at timestamp with time zone CONSTRAINT messages_accepted_at_not_null NOT NULL,
    archived_at timestamp with time zone DEFAULT now() CONSTRAINT messages_archived_at_not_null NOT NULL,
    content jsonb,
    not_before timestamp with time zone
);

CREATE TABLE public.message_states (
    tenant_id text NOT NULL,
    conversation_id text NOT NULL,
    message_id text NOT NULL,
    deliveries integer NOT NULL,
    pending integer NOT NULL,
    sent integer NOT NULL,
    delivered integer NOT NULL,
    read integer NOT NULL,
    failed integer NOT NULL,
    expired integer NOT NULL,
    cancelled integer NOT NULL,
    suppressed integer NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    CONSTRAINT message_states_add_up CHECK (((LEAST(pending, sent, delivered, read, failed, expired, cancelled, suppressed) >= 0) AND (deliveries = (((((((pending + sent) + delivered) + read) + failed) + expired) + cancelled) + suppressed))))
)
WITH (fillfactor='50');

CREATE VIEW public.message_roll_ups AS
 SELECT tenant_id,
    conversation_id,
    message_id,
    deliveries,
        CASE ((sent + delivered) + read)
            WHEN 0 THEN 'none'::text
            WHEN deliveries THEN 'all'::text
            ELSE 'some'::text
        END AS sent,
        CASE (delivered + read)
            WHEN 0 THEN 'none'::text
            WHEN deliveries THEN 'all'::text
            ELSE 'some'::text
        END AS delivered,
        CASE read
            WHEN 0 THEN 'none'::text
            WHEN deliveries THEN 'all'::text
            ELSE 'some'::text
        END AS read,
        CASE (((failed + expired) + cancelled) + suppressed)
            WHEN 0 THEN 'none'::text
            WHEN deliveries THEN 'all'::text
            ELSE 'some'::text
        END AS failed,
        CASE
            WHEN (read > 0) THEN 'READ'::text
            WHEN (delivered > 0) THEN 'DELIVERED'::text
            WHEN (sent > 0) THEN 'SENT'::text
            WHEN (pending > 0) THEN 'PENDING'::text
            WHEN (suppressed > 0) THEN 'SUPPRESSED'::text
            WHEN (cancelled > 0) THEN 'CANCELLED'::text
            WHEN (expired > 0) THEN 'EXPIRED'::text
            ELSE 'FAILED'::text
        END AS best,
        CASE
            WHEN (failed > 0) THEN 'FAILED'::text
            WHEN (expired > 0) THEN 'EXPIRED'::text
            WHEN (cancelled > 0) THEN 'CANCELLED'::text
            WHEN (suppressed > 0) THEN 'SUPPRESSED'::text
            WHEN (pending > 0) THEN 'PENDING'::text
            WHEN (sent > 0) THEN 'SENT'::text
            WHEN (delivered > 0) THEN 'DELIVERED'::text
            ELSE 'READ'::text
        END AS worst,
    changed_at
   FROM public.message_states;

CREATE TABLE public.messages (
    tenant_id text NOT NULL,
    message_id text NOT NULL,
    conversation_id text NOT NULL,
    home_partition integer NOT NULL,
    seq bigint NOT NULL,
    direction text NOT NULL,
    sender text NOT NULL,
    kind text NOT NULL,
    text text NOT NULL,
    metadata jsonb NOT NULL,
    requested_at timestamp with time zone NOT NULL,
    accepted_at timestamp with time zone NOT NULL,
    archived_at timestamp with time zone DEFAULT now() NOT NULL,
    content jsonb,
    not_before timestamp with time zone
);

CREATE TABLE public.sink_offsets (
    sink text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT sink_offsets_next_offset_check CHECK ((next_offset >= 0))
);

CREATE VIEW public.stalled_deliveries AS
 SELECT tenant_id,
    channel,
    account,
    conversation_id,
    message_id,
    delivery_id,
    recipient,
    address,
    provider_message_id,
    sent_at,
    stalled_at
   FROM public.deliveries
  WHERE (stalled_at IS NOT NULL);

INSERT INTO public.applied_migrations VALUES
	('0001_archive.sql', '551f143479b11107b7f118afc61fc8efdb42ae2776049679724a972ac8b604d0', '2026-11-30 00:19:56.076871+00'),
	('0002_sink_offsets.sql', 'ef91e7c71782fba5ad7ea57f01d23427c769d320001069ec4f8c963531153209', '2026-11-30 00:19:56.091168+00'),
	('0003_content.sql', '264d3370e744957841c0b1b84fd6240c0f66f2f0ac3cb5f5704602afe08fb00c', '2026-11-30 00:19:56.094123+00'),
	('0004_kind.sql', '44f2e6039e7ede8b32f78432dbaa141bf5fa774cb27b55e68102a355c08ac60e', '2026-11-30 00:19:56.095047+00'),
	('0005_identity.sql', 'bec579da5506639d354669a012f5e75a20c67cdc412fc9a26a656d5d5310842a', '2026-11-30 00:19:56.096032+00'),
	('0006_not_before.sql', 'd4eb78e74d5f331da9e0f6fdb87a11ad651af97909cd607492aef7388a6c4efe', '2026-11-30 00:19:56.100434+00'),
	('0007_cursors.sql', '23ee4c82ab3177eea4c92c9a3719353434c3f13d87ddc1e0b942dff40f88f4c9', '2026-11-30 00:19:56.10137+00'),
	('0008_stalled.sql', 'c8a4ae5b7cc1a6ee9b9d85347916e6c1ea0e5535c4510d0528ef8f591912999b', '2026-11-30 00:19:56.104819+00'),
	('0009_message_states.sql', '0e4d55cd137231e417af0d85681756a3dde9a84b41ee29020eb709c79924363a', '2026-11-30 00:19:56.10758+00');

INSERT INTO public.cursors VALUES
	('acme', 'c1', 0, 'person-0', 1, 2, NULL, 2, '2026-10-21 14:13:20+00', '2026-11-30 00:19:57.121146+00'),
	('default', 'c1', 0, 'person-0', 3, 3, 1, 8, '2026-10-21 14:13:20+00', '2026-11-30 00:19:57.121146+00'),
	('default', 'c1', 0, 'person-1', 1, NULL, NULL, 5, '2026-10-21 14:13:20+00', '2026-11-30 00:19:57.121146+00');

INSERT INTO public.deliveries VALUES
	('acme', 'd12-0', 'e12-0-3', 'm12', 'c1', 0, 2, 'whatsapp', 'a', 'person-0', '15550000000', 3, 'SENT', 'DELIVERED', 'RECEIPT', NULL, '2026-10-21 14:13:32.505+00', '2026-10-21 14:13:32.525+00', '2026-10-21 14:13:32+00', '2026-10-21 14:13:32.005+00', '2026-10-21 14:13:32.015+00', '2026-10-21 14:13:32.105+00', '2026-10-21 14:13:32.505+00', NULL, NULL, false, 1, 0, 'wamid.12.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', 'text', NULL),
	('acme', 'd5-0', 'e5-0-3', 'm5', 'c1', 0, 1, 'whatsapp', 'a', 'person-0', '15550000000', 3, 'SENT', 'DELIVERED', 'RECEIPT', NULL, '2026-09-21 14:13:25.505+00', '2026-09-21 14:13:25.525+00', '2026-09-21 14:13:25+00', '2026-09-21 14:13:25.005+00', '2026-09-21 14:13:25.015+00', '2026-09-21 14:13:25.105+00', '2026-09-21 14:13:25.505+00', NULL, NULL, false, 1, 0, 'wamid.5.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', 'text', NULL),
	('default', 'd1-0', 'e1-0-4', 'm1', 'c1', 0, 1, 'whatsapp', 'a', 'person-0', '15550000000', 4, 'DELIVERED', 'READ', 'RECEIPT', NULL, '2026-09-21 14:13:22.005+00', '2026-09-21 14:13:22.025+00', '2026-09-21 14:13:21+00', '2026-09-21 14:13:21.005+00', '2026-09-21 14:13:21.015+00', '2026-09-21 14:13:21.105+00', '2026-09-21 14:13:21.505+00', '2026-09-21 14:13:22.005+00', NULL, false, 1, 0, 'wamid.1.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', 'text', NULL),
	('default', 'd1-1', 'e1-1-4', 'm1', 'c1', 0, 1, 'whatsapp', 'a', 'person-1', '15550000001', 4, 'DELIVERED', 'READ', 'RECEIPT', NULL, '2026-09-21 14:13:22.005+00', '2026-09-21 14:13:22.025+00', '2026-09-21 14:13:21+00', '2026-09-21 14:13:21.005+00', '2026-09-21 14:13:21.015+00', '2026-09-21 14:13:21.105+00', '2026-09-21 14:13:21.505+00', '2026-09-21 14:13:22.005+00', NULL, false, 1, 0, 'wamid.1.1', NULL, NULL, '2026-11-30 00:19:57.121146+00', 'text', NULL),
	('default', 'd10-0', 'e10-0-1-f', 'm10', 'c1', 0, 7, 'whatsapp', 'a', 'person-0', '15550000000', 2, 'PENDING', 'FAILED', 'REJECTED', NULL, '2026-10-21 14:13:30.055+00', '2026-10-21 14:13:30.055+00', '2026-10-21 14:13:30+00', '2026-10-21 14:13:30.005+00', NULL, NULL, NULL, NULL, '2026-10-21 14:13:30.055+00', false, 1, 0, NULL, '131026', 'Message undeliverable', '2026-11-30 00:19:57.121146+00', 'text', NULL),
	('default', 'd11-0', 'e11-0-2-s', 'm11', 'c1', 0, 8, 'whatsapp', 'a', 'person-0', '15550000000', 3, 'SENT', 'SENT', 'STALLED', NULL, '2026-10-21 14:23:31.105+00', '2026-10-21 14:23:31.106+00', '2026-10-21 14:13:31+00', '2026-10-21 14:13:31.005+00', '2026-10-21 14:13:31.015+00', '2026-10-21 14:13:31.105+00', NULL, NULL, NULL, false, 1, 0, 'wamid.11.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', 'text', '2026-10-21 14:23:31.105+00'),
	('default', 'd14-0', 'e14-0-1', 'm14', 'c3', 0, 2, 'whatsapp', 'a', 'person-0', '15550000000', 1, 'PENDING', 'PENDING', 'CREATED', NULL, '2026-10-21 14:13:34.005+00', '2026-10-21 14:13:34.005+00', '2026-10-21 14:13:34+00', '2026-10-21 14:13:34.005+00', NULL, NULL, NULL, NULL, NULL, false, 0, 0, NULL, NULL, NULL, '2026-11-30 00:19:57.121146+00', 'text', NULL),
	('default', 'd15-0', 'e15-0-2', 'm15', 'c4', 0, 1, 'whatsapp', 'a', 'person-0', '15550000000', 2, 'PENDING', 'SENT', 'ACCEPTED', NULL, '1970-10-15 14:13:35.105+00', '1970-10-15 14:13:35.106+00', '1970-10-15 14:13:35+00', '1970-10-15 14:13:35.005+00', '1970-10-15 14:13:35.015+00', '1970-10-15 14:13:35.105+00', NULL, NULL, NULL, false, 1, 0, 'wamid.15.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', 'text', NULL),
	('default', 'd3-0', 'e3-0-1-f', 'm3', 'c1', 0, 3, 'whatsapp', 'a', 'person-0', '15550000000', 2, 'PENDING', 'FAILED', 'REJECTED', NULL, '2026-09-21 14:13:23.055+00', '2026-09-21 14:13:23.055+00', '2026-09-21 14:13:23+00', '2026-09-21 14:13:23.005+00', NULL, NULL, NULL, NULL, '2026-09-21 14:13:23.055+00', false, 1, 0, NULL, '131026', 'Message undeliverable', '2026-11-30 00:19:57.121146+00', 'text', NULL),
	('default', 'd4-0', 'e4-0-2-s', 'm4', 'c1', 0, 4, 'whatsapp', 'a', 'person-0', '15550000000', 3, 'SENT', 'SENT', 'STALLED', NULL, '2026-09-21 14:23:24.105+00', '2026-09-21 14:23:24.106+00', '2026-09-21 14:13:24+00', '2026-09-21 14:13:24.005+00', '2026-09-21 14:13:24.015+00', '2026-09-21 14:13:24.105+00', NULL, NULL, NULL, false, 1, 0, 'wamid.4.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', 'text', '2026-09-21 14:23:24.105+00'),
	('default', 'd7-0', 'e7-0-1', 'm7', 'c3', 0, 1, 'whatsapp', 'a', 'person-0', '15550000000', 1, 'PENDING', 'PENDING', 'CREATED', NULL, '2026-09-21 14:13:27.005+00', '2026-09-21 14:13:27.005+00', '2026-09-21 14:13:27+00', '2026-09-21 14:13:27.005+00', NULL, NULL, NULL, NULL, NULL, false, 0, 0, NULL, NULL, NULL, '2026-11-30 00:19:57.121146+00', 'text', NULL),
	('default', 'd8-0', 'e8-0-4', 'm8', 'c1', 0, 5, 'whatsapp', 'a', 'person-0', '15550000000', 4, 'DELIVERED', 'READ', 'RECEIPT', NULL, '2026-10-21 14:13:29.005+00', '2026-10-21 14:13:29.025+00', '2026-10-21 14:13:28+00', '2026-10-21 14:13:28.005+00', '2026-10-21 14:13:28.015+00', '2026-10-21 14:13:28.105+00', '2026-10-21 14:13:28.505+00', '2026-10-21 14:13:29.005+00', NULL, false, 1, 0, 'wamid.8.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', 'text', NULL),
	('default', 'd8-1', 'e8-1-4', 'm8', 'c1', 0, 5, 'whatsapp', 'a', 'person-1', '15550000001', 4, 'DELIVERED', 'READ', 'RECEIPT', NULL, '2026-10-21 14:13:29.005+00', '2026-10-21 14:13:29.025+00', '2026-10-21 14:13:28+00', '2026-10-21 14:13:28.005+00', '2026-10-21 14:13:28.015+00', '2026-10-21 14:13:28.105+00', '2026-10-21 14:13:28.505+00', '2026-10-21 14:13:29.005+00', NULL, false, 1, 0, 'wamid.8.1', NULL, NULL, '2026-11-30 00:19:57.121146+00', 'text', NULL),
	('o.brien', 'd13-0', 'e13-0-1-f', 'm13', 'c-2', 0, 2, 'whatsapp', 'a', 'person-0', '15550000000', 2, 'PENDING', 'EXPIRED', 'EXPIRED', NULL, '2026-10-21 14:13:33.055+00', '2026-10-21 14:13:33.055+00', '2026-10-21 14:13:33+00', '2026-10-21 14:13:33.005+00', NULL, NULL, NULL, NULL, '2026-10-21 14:13:33.055+00', false, 1, 0, NULL, '131026', 'Message undeliverable', '2026-11-30 00:19:57.121146+00', 'text', NULL),
	('o.brien', 'd6-0', 'e6-0-1-f', 'm6', 'c-2', 0, 1, 'whatsapp', 'a', 'person-0', '15550000000', 2, 'PENDING', 'EXPIRED', 'EXPIRED', NULL, '2026-09-21 14:13:26.055+00', '2026-09-21 14:13:26.055+00', '2026-09-21 14:13:26+00', '2026-09-21 14:13:26.005+00', NULL, NULL, NULL, NULL, '2026-09-21 14:13:26.055+00', false, 1, 0, NULL, '131026', 'Message undeliverable', '2026-11-30 00:19:57.121146+00', 'text', NULL);

INSERT INTO public.delivery_events VALUES
	('default', 'd1-0', 'e1-0-1', 1, 'PENDING', 'PENDING', 'CREATED', NULL, '2026-09-21 14:13:21.005+00', '2026-09-21 14:13:21.005+00', NULL, 0, 0, NULL, NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd1-0', 'e1-0-2', 2, 'PENDING', 'SENT', 'ACCEPTED', NULL, '2026-09-21 14:13:21.105+00', '2026-09-21 14:13:21.106+00', '2026-09-21 14:13:21.015+00', 1, 0, 'wamid.1.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd1-0', 'e1-0-3', 3, 'SENT', 'DELIVERED', 'RECEIPT', NULL, '2026-09-21 14:13:21.505+00', '2026-09-21 14:13:21.525+00', '2026-09-21 14:13:21.015+00', 1, 0, 'wamid.1.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd1-0', 'e1-0-4', 4, 'DELIVERED', 'READ', 'RECEIPT', NULL, '2026-09-21 14:13:22.005+00', '2026-09-21 14:13:22.025+00', '2026-09-21 14:13:21.015+00', 1, 0, 'wamid.1.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd1-1', 'e1-1-1', 1, 'PENDING', 'PENDING', 'CREATED', NULL, '2026-09-21 14:13:21.005+00', '2026-09-21 14:13:21.005+00', NULL, 0, 0, NULL, NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd1-1', 'e1-1-2', 2, 'PENDING', 'SENT', 'ACCEPTED', NULL, '2026-09-21 14:13:21.105+00', '2026-09-21 14:13:21.106+00', '2026-09-21 14:13:21.015+00', 1, 0, 'wamid.1.1', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd1-1', 'e1-1-3', 3, 'SENT', 'DELIVERED', 'RECEIPT', NULL, '2026-09-21 14:13:21.505+00', '2026-09-21 14:13:21.525+00', '2026-09-21 14:13:21.015+00', 1, 0, 'wamid.1.1', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd1-1', 'e1-1-4', 4, 'DELIVERED', 'READ', 'RECEIPT', NULL, '2026-09-21 14:13:22.005+00', '2026-09-21 14:13:22.025+00', '2026-09-21 14:13:21.015+00', 1, 0, 'wamid.1.1', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd3-0', 'e3-0-1', 1, 'PENDING', 'PENDING', 'CREATED', NULL, '2026-09-21 14:13:23.005+00', '2026-09-21 14:13:23.005+00', NULL, 0, 0, NULL, NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd3-0', 'e3-0-1-f', 2, 'PENDING', 'FAILED', 'REJECTED', NULL, '2026-09-21 14:13:23.055+00', '2026-09-21 14:13:23.055+00', NULL, 1, 0, NULL, '131026', 'Message undeliverable', '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd4-0', 'e4-0-1', 1, 'PENDING', 'PENDING', 'CREATED', NULL, '2026-09-21 14:13:24.005+00', '2026-09-21 14:13:24.005+00', NULL, 0, 0, NULL, NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd4-0', 'e4-0-2', 2, 'PENDING', 'SENT', 'ACCEPTED', NULL, '2026-09-21 14:13:24.105+00', '2026-09-21 14:13:24.106+00', '2026-09-21 14:13:24.015+00', 1, 0, 'wamid.4.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd4-0', 'e4-0-2-s', 3, 'SENT', 'SENT', 'STALLED', NULL, '2026-09-21 14:23:24.105+00', '2026-09-21 14:23:24.106+00', '2026-09-21 14:13:24.015+00', 1, 0, 'wamid.4.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', '2026-09-21 14:23:24.105+00'),
	('acme', 'd5-0', 'e5-0-1', 1, 'PENDING', 'PENDING', 'CREATED', NULL, '2026-09-21 14:13:25.005+00', '2026-09-21 14:13:25.005+00', NULL, 0, 0, NULL, NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('acme', 'd5-0', 'e5-0-2', 2, 'PENDING', 'SENT', 'ACCEPTED', NULL, '2026-09-21 14:13:25.105+00', '2026-09-21 14:13:25.106+00', '2026-09-21 14:13:25.015+00', 1, 0, 'wamid.5.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('acme', 'd5-0', 'e5-0-3', 3, 'SENT', 'DELIVERED', 'RECEIPT', NULL, '2026-09-21 14:13:25.505+00', '2026-09-21 14:13:25.525+00', '2026-09-21 14:13:25.015+00', 1, 0, 'wamid.5.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('o.brien', 'd6-0', 'e6-0-1', 1, 'PENDING', 'PENDING', 'CREATED', NULL, '2026-09-21 14:13:26.005+00', '2026-09-21 14:13:26.005+00', NULL, 0, 0, NULL, NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('o.brien', 'd6-0', 'e6-0-1-f', 2, 'PENDING', 'EXPIRED', 'EXPIRED', NULL, '2026-09-21 14:13:26.055+00', '2026-09-21 14:13:26.055+00', NULL, 1, 0, NULL, '131026', 'Message undeliverable', '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd7-0', 'e7-0-1', 1, 'PENDING', 'PENDING', 'CREATED', NULL, '2026-09-21 14:13:27.005+00', '2026-09-21 14:13:27.005+00', NULL, 0, 0, NULL, NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd8-0', 'e8-0-1', 1, 'PENDING', 'PENDING', 'CREATED', NULL, '2026-10-21 14:13:28.005+00', '2026-10-21 14:13:28.005+00', NULL, 0, 0, NULL, NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd8-0', 'e8-0-2', 2, 'PENDING', 'SENT', 'ACCEPTED', NULL, '2026-10-21 14:13:28.105+00', '2026-10-21 14:13:28.106+00', '2026-10-21 14:13:28.015+00', 1, 0, 'wamid.8.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd8-0', 'e8-0-3', 3, 'SENT', 'DELIVERED', 'RECEIPT', NULL, '2026-10-21 14:13:28.505+00', '2026-10-21 14:13:28.525+00', '2026-10-21 14:13:28.015+00', 1, 0, 'wamid.8.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd8-0', 'e8-0-4', 4, 'DELIVERED', 'READ', 'RECEIPT', NULL, '2026-10-21 14:13:29.005+00', '2026-10-21 14:13:29.025+00', '2026-10-21 14:13:28.015+00', 1, 0, 'wamid.8.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd8-1', 'e8-1-1', 1, 'PENDING', 'PENDING', 'CREATED', NULL, '2026-10-21 14:13:28.005+00', '2026-10-21 14:13:28.005+00', NULL, 0, 0, NULL, NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd8-1', 'e8-1-2', 2, 'PENDING', 'SENT', 'ACCEPTED', NULL, '2026-10-21 14:13:28.105+00', '2026-10-21 14:13:28.106+00', '2026-10-21 14:13:28.015+00', 1, 0, 'wamid.8.1', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd8-1', 'e8-1-3', 3, 'SENT', 'DELIVERED', 'RECEIPT', NULL, '2026-10-21 14:13:28.505+00', '2026-10-21 14:13:28.525+00', '2026-10-21 14:13:28.015+00', 1, 0, 'wamid.8.1', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd8-1', 'e8-1-4', 4, 'DELIVERED', 'READ', 'RECEIPT', NULL, '2026-10-21 14:13:29.005+00', '2026-10-21 14:13:29.025+00', '2026-10-21 14:13:28.015+00', 1, 0, 'wamid.8.1', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd10-0', 'e10-0-1', 1, 'PENDING', 'PENDING', 'CREATED', NULL, '2026-10-21 14:13:30.005+00', '2026-10-21 14:13:30.005+00', NULL, 0, 0, NULL, NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd10-0', 'e10-0-1-f', 2, 'PENDING', 'FAILED', 'REJECTED', NULL, '2026-10-21 14:13:30.055+00', '2026-10-21 14:13:30.055+00', NULL, 1, 0, NULL, '131026', 'Message undeliverable', '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd11-0', 'e11-0-1', 1, 'PENDING', 'PENDING', 'CREATED', NULL, '2026-10-21 14:13:31.005+00', '2026-10-21 14:13:31.005+00', NULL, 0, 0, NULL, NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd11-0', 'e11-0-2', 2, 'PENDING', 'SENT', 'ACCEPTED', NULL, '2026-10-21 14:13:31.105+00', '2026-10-21 14:13:31.106+00', '2026-10-21 14:13:31.015+00', 1, 0, 'wamid.11.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd11-0', 'e11-0-2-s', 3, 'SENT', 'SENT', 'STALLED', NULL, '2026-10-21 14:23:31.105+00', '2026-10-21 14:23:31.106+00', '2026-10-21 14:13:31.015+00', 1, 0, 'wamid.11.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', '2026-10-21 14:23:31.105+00'),
	('acme', 'd12-0', 'e12-0-1', 1, 'PENDING', 'PENDING', 'CREATED', NULL, '2026-10-21 14:13:32.005+00', '2026-10-21 14:13:32.005+00', NULL, 0, 0, NULL, NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('acme', 'd12-0', 'e12-0-2', 2, 'PENDING', 'SENT', 'ACCEPTED', NULL, '2026-10-21 14:13:32.105+00', '2026-10-21 14:13:32.106+00', '2026-10-21 14:13:32.015+00', 1, 0, 'wamid.12.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('acme', 'd12-0', 'e12-0-3', 3, 'SENT', 'DELIVERED', 'RECEIPT', NULL, '2026-10-21 14:13:32.505+00', '2026-10-21 14:13:32.525+00', '2026-10-21 14:13:32.015+00', 1, 0, 'wamid.12.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('o.brien', 'd13-0', 'e13-0-1', 1, 'PENDING', 'PENDING', 'CREATED', NULL, '2026-10-21 14:13:33.005+00', '2026-10-21 14:13:33.005+00', NULL, 0, 0, NULL, NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('o.brien', 'd13-0', 'e13-0-1-f', 2, 'PENDING', 'EXPIRED', 'EXPIRED', NULL, '2026-10-21 14:13:33.055+00', '2026-10-21 14:13:33.055+00', NULL, 1, 0, NULL, '131026', 'Message undeliverable', '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd14-0', 'e14-0-1', 1, 'PENDING', 'PENDING', 'CREATED', NULL, '2026-10-21 14:13:34.005+00', '2026-10-21 14:13:34.005+00', NULL, 0, 0, NULL, NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd15-0', 'e15-0-1', 1, 'PENDING', 'PENDING', 'CREATED', NULL, '1970-10-15 14:13:35.005+00', '1970-10-15 14:13:35.005+00', NULL, 0, 0, NULL, NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL),
	('default', 'd15-0', 'e15-0-2', 2, 'PENDING', 'SENT', 'ACCEPTED', NULL, '1970-10-15 14:13:35.105+00', '1970-10-15 14:13:35.106+00', '1970-10-15 14:13:35.015+00', 1, 0, 'wamid.15.0', NULL, NULL, '2026-11-30 00:19:57.121146+00', NULL);

INSERT INTO public.message_conflicts VALUES
	('default', 'm-again', 'c1', 0, 1, 'OUTBOUND', 'app', 'text', 'a sequence given twice', '{}', '2026-09-21 14:13:21+00', '2026-09-21 14:13:21.005+00', '2026-11-30 00:19:57.13651+00', NULL, NULL);

INSERT INTO public.message_states VALUES
	('acme', 'c1', 'm12', 1, 0, 0, 1, 0, 0, 0, 0, 0, '2026-10-21 14:13:32.525+00'),
	('acme', 'c1', 'm5', 1, 0, 0, 1, 0, 0, 0, 0, 0, '2026-09-21 14:13:25.525+00'),
	('default', 'c1', 'm1', 2, 0, 0, 0, 2, 0, 0, 0, 0, '2026-09-21 14:13:22.025+00'),
	('default', 'c1', 'm10', 1, 0, 0, 0, 0, 1, 0, 0, 0, '2026-10-21 14:13:30.055+00'),
	('default', 'c1', 'm11', 1, 0, 1, 0, 0, 0, 0, 0, 0, '2026-10-21 14:23:31.106+00'),
	('default', 'c1', 'm3', 1, 0, 0, 0, 0, 1, 0, 0, 0, '2026-09-21 14:13:23.055+00'),
	('default', 'c1', 'm4', 1, 0, 1, 0, 0, 0, 0, 0, 0, '2026-09-21 14:23:24.106+00'),
	('default', 'c1', 'm8', 2, 0, 0, 0, 2, 0, 0, 0, 0, '2026-10-21 14:13:29.025+00'),
	('default', 'c3', 'm14', 1, 1, 0, 0, 0, 0, 0, 0, 0, '2026-10-21 14:13:34.005+00'),
	('default', 'c3', 'm7', 1, 1, 0, 0, 0, 0, 0, 0, 0, '2026-09-21 14:13:27.005+00'),
	('default', 'c4', 'm15', 1, 0, 1, 0, 0, 0, 0, 0, 0, '1970-10-15 14:13:35.106+00'),
	('o.brien', 'c-2', 'm13', 1, 0, 0, 0, 0, 0, 1, 0, 0, '2026-10-21 14:13:33.055+00'),
	('o.brien', 'c-2', 'm6', 1, 0, 0, 0, 0, 0, 1, 0, 0, '2026-09-21 14:13:26.055+00');

INSERT INTO public.messages VALUES
	('default', 'm1', 'c1', 0, 1, 'OUTBOUND', 'app', 'text', 'Olá, João: sua consulta é amanhã', '{}', '2026-09-21 14:13:21+00', '2026-09-21 14:13:21.005+00', '2026-11-30 00:19:57.121146+00', NULL, NULL),
	('default', 'm2', 'c1', 0, 2, 'INBOUND', 'person-0', 'text', 'obrigado', '{}', '2026-09-21 14:13:22+00', '2026-09-21 14:13:22.005+00', '2026-11-30 00:19:57.121146+00', NULL, NULL),
	('default', 'm3', 'c1', 0, 3, 'OUTBOUND', 'app', 'text', 'text 3', '{}', '2026-09-21 14:13:23+00', '2026-09-21 14:13:23.005+00', '2026-11-30 00:19:57.121146+00', '{"media": [{"url": "https://shop.example/a.jpg", "kind": "image"}]}', NULL),
	('default', 'm4', 'c1', 0, 4, 'OUTBOUND', 'app', 'text', 'text 4', '{}', '2026-09-21 14:13:24+00', '2026-09-21 14:13:24.005+00', '2026-11-30 00:19:57.121146+00', NULL, NULL),
	('acme', 'm5', 'c1', 0, 1, 'OUTBOUND', 'app', 'text', 'text 5', '{"campaign": "spring"}', '2026-09-21 14:13:25+00', '2026-09-21 14:13:25.005+00', '2026-11-30 00:19:57.121146+00', NULL, NULL),
	('o.brien', 'm6', 'c-2', 0, 1, 'OUTBOUND', 'app', 'text', 'NUL ␀0 and ␀␀', '{}', '2026-09-21 14:13:26+00', '2026-09-21 14:13:26.005+00', '2026-11-30 00:19:57.121146+00', NULL, NULL),
	('default', 'm7', 'c3', 0, 1, 'OUTBOUND', 'app', 'text', 'text 7', '{}', '2026-09-21 14:13:27+00', '2026-09-21 14:13:27.005+00', '2026-11-30 00:19:57.121146+00', NULL, NULL),
	('default', 'm8', 'c1', 0, 5, 'OUTBOUND', 'app', 'text', 'Olá, João: sua consulta é amanhã', '{}', '2026-10-21 14:13:28+00', '2026-10-21 14:13:28.005+00', '2026-11-30 00:19:57.121146+00', NULL, NULL),
	('default', 'm9', 'c1', 0, 6, 'INBOUND', 'person-0', 'text', 'obrigado', '{}', '2026-10-21 14:13:29+00', '2026-10-21 14:13:29.005+00', '2026-11-30 00:19:57.121146+00', NULL, NULL),
	('default', 'm10', 'c1', 0, 7, 'OUTBOUND', 'app', 'text', 'text 10', '{}', '2026-10-21 14:13:30+00', '2026-10-21 14:13:30.005+00', '2026-11-30 00:19:57.121146+00', '{"media": [{"url": "https://shop.example/a.jpg", "kind": "image"}]}', NULL),
	('default', 'm11', 'c1', 0, 8, 'OUTBOUND', 'app', 'text', 'text 11', '{}', '2026-10-21 14:13:31+00', '2026-10-21 14:13:31.005+00', '2026-11-30 00:19:57.121146+00', NULL, NULL),
	('acme', 'm12', 'c1', 0, 2, 'OUTBOUND', 'app', 'text', 'text 12', '{"campaign": "spring"}', '2026-10-21 14:13:32+00', '2026-10-21 14:13:32.005+00', '2026-11-30 00:19:57.121146+00', NULL, NULL),
	('o.brien', 'm13', 'c-2', 0, 2, 'OUTBOUND', 'app', 'text', 'NUL ␀0 and ␀␀', '{}', '2026-10-21 14:13:33+00', '2026-10-21 14:13:33.005+00', '2026-11-30 00:19:57.121146+00', NULL, NULL),
	('default', 'm14', 'c3', 0, 2, 'OUTBOUND', 'app', 'text', 'text 14', '{}', '2026-10-21 14:13:34+00', '2026-10-21 14:13:34.005+00', '2026-11-30 00:19:57.121146+00', NULL, NULL),
	('default', 'm15', 'c4', 0, 1, 'OUTBOUND', 'app', 'text', 'text 15', '{}', '1970-10-15 14:13:35+00', '1970-10-15 14:13:35.005+00', '2026-11-30 00:19:57.121146+00', NULL, NULL);

INSERT INTO public.sink_offsets VALUES
	('archive', 'cursors', 0, 3, '2026-11-30 00:19:57.121146+00'),
	('archive', 'delivery-states', 0, 40, '2026-11-30 00:19:57.121146+00'),
	('archive', 'conversation-log', 0, 16, '2026-11-30 00:19:57.13651+00');

ALTER TABLE ONLY public.applied_migrations
    ADD CONSTRAINT applied_migrations_pkey PRIMARY KEY (name);

ALTER TABLE ONLY public.cursors
    ADD CONSTRAINT cursors_pkey PRIMARY KEY (tenant_id, conversation_id, member);

ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT deliveries_pkey PRIMARY KEY (tenant_id, delivery_id);

ALTER TABLE ONLY public.delivery_events
    ADD CONSTRAINT delivery_events_pkey PRIMARY KEY (tenant_id, delivery_id, event_id);

ALTER TABLE ONLY public.message_conflicts
    ADD CONSTRAINT message_conflicts_pkey PRIMARY KEY (tenant_id, conversation_id, message_id, seq);

ALTER TABLE ONLY public.message_states
    ADD CONSTRAINT message_states_pkey PRIMARY KEY (tenant_id, conversation_id, message_id);

ALTER TABLE ONLY public.messages
    ADD CONSTRAINT messages_pkey PRIMARY KEY (tenant_id, conversation_id, message_id);

ALTER TABLE ONLY public.messages
    ADD CONSTRAINT messages_tenant_id_conversation_id_seq_key UNIQUE (tenant_id, conversation_id, seq);

ALTER TABLE ONLY public.sink_offsets
    ADD CONSTRAINT sink_offsets_pkey PRIMARY KEY (sink, topic, partition);

CREATE INDEX deliveries_by_message ON public.deliveries USING btree (tenant_id, message_id, conversation_id);

CREATE INDEX deliveries_stalled ON public.deliveries USING btree (channel, account, stalled_at) WHERE (stalled_at IS NOT NULL);

CREATE INDEX deliveries_undelivered ON public.deliveries USING btree (accepted_at) WHERE (status = ANY (ARRAY['PENDING'::text, 'SENT'::text]));

CREATE INDEX messages_by_id ON public.messages USING btree (tenant_id, message_id);

CREATE TRIGGER message_states_of_changed AFTER UPDATE ON public.deliveries REFERENCING OLD TABLE AS before_change NEW TABLE AS after_change FOR EACH STATEMENT EXECUTE FUNCTION public.count_changed_deliveries();

CREATE TRIGGER message_states_of_deleted AFTER DELETE ON public.deliveries REFERENCING OLD TABLE AS before_change FOR EACH STATEMENT EXECUTE FUNCTION public.count_messages_anew();

CREATE TRIGGER message_states_of_new AFTER INSERT ON public.deliveries REFERENCING NEW TABLE AS after_change FOR EACH STATEMENT EXECUTE FUNCTION public.count_new_deliveries();
