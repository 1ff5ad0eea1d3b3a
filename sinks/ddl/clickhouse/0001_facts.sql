-- The facts of reports. No text, no address, no recipient, and nothing that could hold one: provider ids do (a WhatsApp id is the phone
-- number in base64), and so do event ids and providers' sentences. (delivery_id, version) names a transition.
--
-- Every relation remembers the tokens of its last inserts (non_replicated_deduplication_window), so that a repeated batch changes
-- neither the facts nor what the materialized views made of them.

create table if not exists delivery_events (
    tenant_id         LowCardinality(String),
    delivery_id       String,
    message_id        String,
    conversation_id   String,
    home_partition    Int32,
    seq               Int64,
    channel           LowCardinality(String),
    account           LowCardinality(String),
    version           Int32,
    previous_status   LowCardinality(String),
    status            LowCardinality(String),
    cause             LowCardinality(String),
    anomaly           LowCardinality(String),
    occurred_at       DateTime64(3, 'UTC'),
    observed_at       DateTime64(3, 'UTC'),
    requested_at      DateTime64(3, 'UTC'),
    accepted_at       DateTime64(3, 'UTC'),
    dispatched_at     Nullable(DateTime64(3, 'UTC')),
    sent_at           Nullable(DateTime64(3, 'UTC')),
    delivered_at      Nullable(DateTime64(3, 'UTC')),
    read_at           Nullable(DateTime64(3, 'UTC')),
    failed_at         Nullable(DateTime64(3, 'UTC')),
    delivered_implied Bool,
    attempts          Int32,
    resends           Int32,
    reason_code       LowCardinality(String)
)
engine = MergeTree
partition by toYYYYMM(accepted_at)
order by (tenant_id, channel, accepted_at, delivery_id, version)
settings non_replicated_deduplication_window = 10000;

-- The latest state of every delivery; read it with FINAL. Channel and accepted_at never change for a delivery, so they may lead the key.
create table if not exists deliveries as delivery_events
engine = ReplacingMergeTree(version)
partition by toYYYYMM(accepted_at)
order by (tenant_id, channel, accepted_at, delivery_id)
settings non_replicated_deduplication_window = 10000;

create materialized view if not exists deliveries_from_events to deliveries as
select * from delivery_events;
