-- The facts anew: daily partitions, codecs, a time to live, the account in every roll-up, and what an attempt needs (schema version 4 of
-- delivery_state). Rows are copied from the relations of 0001 to 0005, whose names the new ones take at the end.
--
-- Stop the sinks before this file is applied, and let them finish before: a batch inserted meanwhile would be missed. Each statement may
-- run again: after an interruption, the copy begins anew. TTL counts from the insert; sinks/retention.py sets the days of this deployment.
-- `batch` names the insert of a row (a hash of its token), `inserted_at` says when: so that stage analyse can find out, after a crash,
-- whether a planned batch is in, however many batches came in between.
--
-- Days before 2020 and after 2099 share two partitions, and minutes and hours are those of 1970 to 2099: so that wrong clocks can make
-- neither too many partitions nor times that overflow. The columns hold every time as it is.

drop view if exists deliveries_from_events;
drop view if exists deliveries_by_minute_from_events;
drop view if exists deliveries_by_hour_from_events;
drop view if exists stalled_deliveries;
drop view if exists report_delivery;
drop view if exists report_delivery_by_hour;
drop view if exists attempts_from_events;

drop table if exists delivery_events_daily;
drop table if exists deliveries_daily;
drop table if exists new_deliveries_by_minute;
drop table if exists new_deliveries_by_hour;

create table if not exists delivery_events_daily (
    tenant_id           LowCardinality(String),
    delivery_id         String CODEC(ZSTD(1)),
    message_id          String CODEC(ZSTD(1)),
    conversation_id     String CODEC(ZSTD(1)),
    home_partition      Int32 CODEC(ZSTD(1)),
    seq                 Int64 CODEC(ZSTD(1)),
    channel             LowCardinality(String),
    account             LowCardinality(String),
    version             Int32 CODEC(ZSTD(1)),
    previous_status     LowCardinality(String),
    status              LowCardinality(String),
    cause               LowCardinality(String),
    anomaly             LowCardinality(String),
    occurred_at         DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    observed_at         DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    requested_at        DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    accepted_at         DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    dispatched_at       Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    sent_at             Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    delivered_at        Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    read_at             Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    failed_at           Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    delivered_implied   Bool,
    attempts            Int32 CODEC(ZSTD(1)),
    resends             Int32 CODEC(ZSTD(1)),
    reason_code         LowCardinality(String),
    stalled_at          Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    kind                LowCardinality(String) default 'text',
    attempt             Int32 default 0 CODEC(ZSTD(1)),
    reported            LowCardinality(String) default '',
    throttled           Bool default false,
    retry_at            Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    throttles           Int32 default 0 CODEC(ZSTD(1)),
    not_before          Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    ready_at            Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    first_dispatched_at Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    fallback_of         String default '' CODEC(ZSTD(1)),
    batch               UInt64 default 0 CODEC(ZSTD(1)),
    inserted_at         DateTime64(3, 'UTC') default now64(3) CODEC(Delta, ZSTD(1)),
    index by_inserted_at inserted_at type minmax granularity 4
)
engine = MergeTree
partition by toYYYYMMDD(least(greatest(accepted_at, toDateTime64('2020-01-01 00:00:00', 3, 'UTC')),
    toDateTime64('2099-12-31 00:00:00', 3, 'UTC')))
order by (tenant_id, channel, accepted_at, delivery_id, version)
ttl toDateTime(inserted_at) + interval 400 day
settings non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

insert into delivery_events_daily (
    tenant_id, delivery_id, message_id, conversation_id, home_partition, seq, channel, account, version, previous_status, status,
    cause, anomaly, occurred_at, observed_at, requested_at, accepted_at, dispatched_at, sent_at, delivered_at, read_at, failed_at,
    delivered_implied, attempts, resends, reason_code, stalled_at
)
select
    tenant_id, delivery_id, message_id, conversation_id, home_partition, seq, channel, account, version, previous_status, status,
    cause, anomaly, occurred_at, observed_at, requested_at, accepted_at, dispatched_at, sent_at, delivered_at, read_at, failed_at,
    delivered_implied, attempts, resends, reason_code, stalled_at
from delivery_events
settings max_partitions_per_insert_block = 0, insert_deduplicate = 0;

exchange tables delivery_events and delivery_events_daily;
drop table delivery_events_daily;

-- The latest state of every delivery; read it with FINAL. Channel and accepted_at never change for a delivery.
create table if not exists deliveries_daily (
    tenant_id           LowCardinality(String),
    delivery_id         String CODEC(ZSTD(1)),
    message_id          String CODEC(ZSTD(1)),
    conversation_id     String CODEC(ZSTD(1)),
    home_partition      Int32 CODEC(ZSTD(1)),
    seq                 Int64 CODEC(ZSTD(1)),
    channel             LowCardinality(String),
    account             LowCardinality(String),
    version             Int32 CODEC(ZSTD(1)),
    previous_status     LowCardinality(String),
    status              LowCardinality(String),
    cause               LowCardinality(String),
    anomaly             LowCardinality(String),
    occurred_at         DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    observed_at         DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    requested_at        DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    accepted_at         DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    dispatched_at       Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    sent_at             Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    delivered_at        Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    read_at             Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    failed_at           Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    delivered_implied   Bool,
    attempts            Int32 CODEC(ZSTD(1)),
    resends             Int32 CODEC(ZSTD(1)),
    reason_code         LowCardinality(String),
    stalled_at          Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    kind                LowCardinality(String) default 'text',
    attempt             Int32 default 0 CODEC(ZSTD(1)),
    reported            LowCardinality(String) default '',
    throttled           Bool default false,
    retry_at            Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    throttles           Int32 default 0 CODEC(ZSTD(1)),
    not_before          Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    ready_at            Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    first_dispatched_at Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    fallback_of         String default '' CODEC(ZSTD(1)),
    batch               UInt64 default 0 CODEC(ZSTD(1)),
    inserted_at         DateTime64(3, 'UTC') default now64(3) CODEC(Delta, ZSTD(1))
)
engine = ReplacingMergeTree(version)
partition by toYYYYMMDD(least(greatest(accepted_at, toDateTime64('2020-01-01 00:00:00', 3, 'UTC')),
    toDateTime64('2099-12-31 00:00:00', 3, 'UTC')))
order by (tenant_id, channel, accepted_at, delivery_id)
ttl toDateTime(inserted_at) + interval 400 day
settings non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

exchange tables deliveries and deliveries_daily;
drop table deliveries_daily;

insert into deliveries select * from delivery_events
settings max_partitions_per_insert_block = 0, insert_deduplicate = 0;

create materialized view if not exists deliveries_from_events to deliveries as
select * from delivery_events;

-- Every attempt that ended, and every decision to repeat one (`resent`). `class` is the outcome: accepted, retry_later, rejected,
-- unknown; it is empty for a resend. `call_ms` is the time of the call; a negative one counts as 0.
create table if not exists attempts (
    tenant_id       LowCardinality(String),
    channel         LowCardinality(String),
    account         LowCardinality(String),
    delivery_id     String CODEC(ZSTD(1)),
    message_id      String CODEC(ZSTD(1)),
    conversation_id String CODEC(ZSTD(1)),
    version         Int32 CODEC(ZSTD(1)),
    attempt         Int32 CODEC(ZSTD(1)),
    class           LowCardinality(String),
    cause           LowCardinality(String),
    reason_code     LowCardinality(String),
    throttled       Bool,
    resent          Bool,
    accepted_at     DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    dispatched_at   Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    ended_at        DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    call_ms         Nullable(Int64) CODEC(ZSTD(1)),
    retry_at        Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    inserted_at     DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1))
)
engine = MergeTree
partition by toYYYYMMDD(least(greatest(accepted_at, toDateTime64('2020-01-01 00:00:00', 3, 'UTC')),
    toDateTime64('2099-12-31 00:00:00', 3, 'UTC')))
order by (tenant_id, channel, accepted_at, delivery_id, version)
ttl toDateTime(inserted_at) + interval 400 day
settings non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

create materialized view if not exists attempts_from_events to attempts as
select
    tenant_id, channel, account, delivery_id, message_id, conversation_id, version, attempt,
    multiIf(cause = 'ACCEPTED', 'accepted', cause in ('RETRY_LATER', 'EXHAUSTED'), 'retry_later', cause = 'UNKNOWN', 'unknown',
            cause = 'REJECTED', 'rejected', '') as class,
    cause, reason_code, throttled, cause = 'RESENT' as resent, accepted_at, dispatched_at, occurred_at as ended_at,
    if(cause = 'RESENT' or dispatched_at is null, null, greatest(0, dateDiff('millisecond', assumeNotNull(dispatched_at), occurred_at)))
        as call_ms,
    retry_at, inserted_at
from delivery_events
where cause in ('ACCEPTED', 'RETRY_LATER', 'EXHAUSTED', 'UNKNOWN', 'REJECTED', 'RESENT') and attempt > 0;

-- Every delivery that stage route accepted, from the conversation log: what must end. `campaign` is the message's label of that name.
create table if not exists accepted_deliveries (
    tenant_id       LowCardinality(String),
    channel         LowCardinality(String),
    account         LowCardinality(String),
    delivery_id     String CODEC(ZSTD(1)),
    message_id      String CODEC(ZSTD(1)),
    conversation_id String CODEC(ZSTD(1)),
    home_partition  Int32 CODEC(ZSTD(1)),
    seq             Int64 CODEC(ZSTD(1)),
    kind            LowCardinality(String),
    campaign        LowCardinality(String),
    fallback_of     String CODEC(ZSTD(1)),
    accepted_at     DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    not_before      Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    batch           UInt64 CODEC(ZSTD(1)),
    inserted_at     DateTime64(3, 'UTC') default now64(3) CODEC(Delta, ZSTD(1)),
    index by_inserted_at inserted_at type minmax granularity 4
)
engine = MergeTree
partition by toYYYYMMDD(least(greatest(accepted_at, toDateTime64('2020-01-01 00:00:00', 3, 'UTC')),
    toDateTime64('2099-12-31 00:00:00', 3, 'UTC')))
order by (tenant_id, channel, accepted_at, delivery_id)
ttl toDateTime(inserted_at) + interval 400 day
settings non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

-- Every message that a person wrote to us.
create table if not exists inbound_events (
    tenant_id       LowCardinality(String),
    channel         LowCardinality(String),
    account         LowCardinality(String),
    message_id      String CODEC(ZSTD(1)),
    conversation_id String CODEC(ZSTD(1)),
    home_partition  Int32 CODEC(ZSTD(1)),
    seq             Int64 CODEC(ZSTD(1)),
    kind            LowCardinality(String),
    received_at     DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    accepted_at     DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    batch           UInt64 CODEC(ZSTD(1)),
    inserted_at     DateTime64(3, 'UTC') default now64(3) CODEC(Delta, ZSTD(1)),
    index by_inserted_at inserted_at type minmax granularity 4
)
engine = MergeTree
partition by toYYYYMMDD(least(greatest(accepted_at, toDateTime64('2020-01-01 00:00:00', 3, 'UTC')),
    toDateTime64('2099-12-31 00:00:00', 3, 'UTC')))
order by (tenant_id, channel, accepted_at, conversation_id, message_id)
ttl toDateTime(inserted_at) + interval 400 day
settings non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

-- Every dead letter, without its bytes; read it with FINAL. `channel` is that of the topic or of the receipt inside;
-- else empty.
create table if not exists dead_letter_events (
    tenant_id        LowCardinality(String),
    dead_letter_id   String CODEC(ZSTD(1)),
    stage            LowCardinality(String),
    cause            LowCardinality(String),
    source_topic     LowCardinality(String),
    channel          LowCardinality(String),
    source_partition Int32 CODEC(ZSTD(1)),
    source_offset    Int64 CODEC(ZSTD(1)),
    refused_at       DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    value_bytes      Int64 CODEC(ZSTD(1)),
    inserted_at      DateTime64(3, 'UTC') default now64(3) CODEC(Delta, ZSTD(1))
)
engine = ReplacingMergeTree
partition by toYYYYMMDD(least(greatest(refused_at, toDateTime64('2020-01-01 00:00:00', 3, 'UTC')),
    toDateTime64('2099-12-31 00:00:00', 3, 'UTC')))
order by (tenant_id, cause, refused_at, dead_letter_id)
ttl toDateTime(inserted_at) + interval 400 day
settings non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

-- Deliveries by the minute and the hour they were accepted in, by double entry as in 0002. New: the account; attempts; the longest
-- time; and `..._le_ms`, how many took at most 10, 25, 50, 100, 250, 500 ms, 1, 2.5, 5, 10, 30, 60 s, 5 min, 1 h or longer (each
-- counted at the first of these limits that it is within): a share within one of these limits is exact. `sla_sent_le_ms` is that of
-- accept_to_sent without deliveries that were scheduled or throttled, which the objective leaves out (schemas/objectives.py).
create table if not exists new_deliveries_by_minute (
    tenant_id                  LowCardinality(String),
    channel                    LowCardinality(String),
    account                    LowCardinality(String),
    minute                     DateTime('UTC'),
    accepted                   SimpleAggregateFunction(sum, Int64),
    pending                    SimpleAggregateFunction(sum, Int64),
    sent                       SimpleAggregateFunction(sum, Int64),
    delivered                  SimpleAggregateFunction(sum, Int64),
    read                       SimpleAggregateFunction(sum, Int64),
    failed                     SimpleAggregateFunction(sum, Int64),
    expired                    SimpleAggregateFunction(sum, Int64),
    cancelled                  SimpleAggregateFunction(sum, Int64),
    suppressed                 SimpleAggregateFunction(sum, Int64),
    attempts                   SimpleAggregateFunction(sum, Int64),
    resends                    SimpleAggregateFunction(sum, Int64),
    throttles                  SimpleAggregateFunction(sum, Int64),
    accept_to_sent_ms          AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Int64),
    accept_to_sent_max_ms      SimpleAggregateFunction(max, Int64),
    accept_to_sent_le_ms       SimpleAggregateFunction(sumMap, Map(UInt32, UInt64)),
    sent_to_delivered_ms       AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Int64),
    sent_to_delivered_max_ms   SimpleAggregateFunction(max, Int64),
    sent_to_delivered_le_ms    SimpleAggregateFunction(sumMap, Map(UInt32, UInt64)),
    accept_to_delivered_ms     AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Int64),
    accept_to_delivered_max_ms SimpleAggregateFunction(max, Int64),
    accept_to_delivered_le_ms  SimpleAggregateFunction(sumMap, Map(UInt32, UInt64)),
    delivered_to_read_ms       AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Int64),
    delivered_to_read_max_ms   SimpleAggregateFunction(max, Int64),
    delivered_to_read_le_ms    SimpleAggregateFunction(sumMap, Map(UInt32, UInt64)),
    sla_sent_le_ms             SimpleAggregateFunction(sumMap, Map(UInt32, UInt64))
)
engine = AggregatingMergeTree
partition by toYYYYMM(minute)
order by (tenant_id, channel, account, minute)
ttl minute + interval 100 day
settings non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;
exchange tables deliveries_by_minute and new_deliveries_by_minute;
drop table new_deliveries_by_minute;
insert into deliveries_by_minute
with
    [10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 3600000, 4294967295] as limits,
    sent_at is not null and previous_status = 'PENDING' and status in ('SENT', 'DELIVERED', 'READ') as is_sent,
    delivered_at is not null and not delivered_implied and previous_status in ('PENDING', 'SENT') and status in ('DELIVERED', 'READ')
        as is_delivered,
    read_at is not null and delivered_at is not null and not delivered_implied and previous_status != 'READ' and status = 'READ' as is_read,
    greatest(0, dateDiff('millisecond', accepted_at, assumeNotNull(sent_at))) as to_sent,
    greatest(0, dateDiff('millisecond', assumeNotNull(sent_at), assumeNotNull(delivered_at))) as to_delivered,
    greatest(0, dateDiff('millisecond', accepted_at, assumeNotNull(delivered_at))) as to_arrival,
    greatest(0, dateDiff('millisecond', assumeNotNull(delivered_at), assumeNotNull(read_at))) as to_read
select
    tenant_id,
    channel,
    account,
    toStartOfMinute(toDateTime(least(greatest(accepted_at, toDateTime64('1970-01-01 00:00:00', 3, 'UTC')),
        toDateTime64('2099-12-31 23:59:59', 3, 'UTC')), 'UTC')) as minute,
    sum(toInt64(version = 1)) as accepted,
    sum(toInt64(status = 'PENDING') - toInt64(version > 1 and previous_status = 'PENDING')) as pending,
    sum(toInt64(status = 'SENT') - toInt64(version > 1 and previous_status = 'SENT')) as sent,
    sum(toInt64(status = 'DELIVERED') - toInt64(version > 1 and previous_status = 'DELIVERED')) as delivered,
    sum(toInt64(status = 'READ') - toInt64(version > 1 and previous_status = 'READ')) as read,
    sum(toInt64(status = 'FAILED') - toInt64(version > 1 and previous_status = 'FAILED')) as failed,
    sum(toInt64(status = 'EXPIRED') - toInt64(version > 1 and previous_status = 'EXPIRED')) as expired,
    sum(toInt64(status = 'CANCELLED') - toInt64(version > 1 and previous_status = 'CANCELLED')) as cancelled,
    sum(toInt64(status = 'SUPPRESSED') - toInt64(version > 1 and previous_status = 'SUPPRESSED')) as suppressed,
    sum(toInt64(attempt > 0 and cause in ('ACCEPTED', 'RETRY_LATER', 'EXHAUSTED', 'UNKNOWN', 'REJECTED'))) as attempts,
    sum(toInt64(cause = 'RESENT')) as resends,
    sum(toInt64(throttled)) as throttles,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(to_sent, is_sent) as accept_to_sent_ms,
    maxIf(to_sent, is_sent) as accept_to_sent_max_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_sent, 4294967295), limits)), toUInt64(1)),
        is_sent) as accept_to_sent_le_ms,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(to_delivered, sent_at is not null and is_delivered) as sent_to_delivered_ms,
    maxIf(to_delivered, sent_at is not null and is_delivered) as sent_to_delivered_max_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_delivered, 4294967295), limits)), toUInt64(1)),
        sent_at is not null and is_delivered) as sent_to_delivered_le_ms,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(to_arrival, is_delivered) as accept_to_delivered_ms,
    maxIf(to_arrival, is_delivered) as accept_to_delivered_max_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_arrival, 4294967295), limits)), toUInt64(1)),
        is_delivered) as accept_to_delivered_le_ms,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(to_read, is_read) as delivered_to_read_ms,
    maxIf(to_read, is_read) as delivered_to_read_max_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_read, 4294967295), limits)), toUInt64(1)),
        is_read) as delivered_to_read_le_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_sent, 4294967295), limits)), toUInt64(1)),
        is_sent and not_before is null and e.throttles = 0) as sla_sent_le_ms
from delivery_events as e
group by tenant_id, channel, account, minute
settings max_partitions_per_insert_block = 0, insert_deduplicate = 0;
create materialized view if not exists deliveries_by_minute_from_events to deliveries_by_minute as
with
    [10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 3600000, 4294967295] as limits,
    sent_at is not null and previous_status = 'PENDING' and status in ('SENT', 'DELIVERED', 'READ') as is_sent,
    delivered_at is not null and not delivered_implied and previous_status in ('PENDING', 'SENT') and status in ('DELIVERED', 'READ')
        as is_delivered,
    read_at is not null and delivered_at is not null and not delivered_implied and previous_status != 'READ' and status = 'READ' as is_read,
    greatest(0, dateDiff('millisecond', accepted_at, assumeNotNull(sent_at))) as to_sent,
    greatest(0, dateDiff('millisecond', assumeNotNull(sent_at), assumeNotNull(delivered_at))) as to_delivered,
    greatest(0, dateDiff('millisecond', accepted_at, assumeNotNull(delivered_at))) as to_arrival,
    greatest(0, dateDiff('millisecond', assumeNotNull(delivered_at), assumeNotNull(read_at))) as to_read
select
    tenant_id,
    channel,
    account,
    toStartOfMinute(toDateTime(least(greatest(accepted_at, toDateTime64('1970-01-01 00:00:00', 3, 'UTC')),
        toDateTime64('2099-12-31 23:59:59', 3, 'UTC')), 'UTC')) as minute,
    sum(toInt64(version = 1)) as accepted,
    sum(toInt64(status = 'PENDING') - toInt64(version > 1 and previous_status = 'PENDING')) as pending,
    sum(toInt64(status = 'SENT') - toInt64(version > 1 and previous_status = 'SENT')) as sent,
    sum(toInt64(status = 'DELIVERED') - toInt64(version > 1 and previous_status = 'DELIVERED')) as delivered,
    sum(toInt64(status = 'READ') - toInt64(version > 1 and previous_status = 'READ')) as read,
    sum(toInt64(status = 'FAILED') - toInt64(version > 1 and previous_status = 'FAILED')) as failed,
    sum(toInt64(status = 'EXPIRED') - toInt64(version > 1 and previous_status = 'EXPIRED')) as expired,
    sum(toInt64(status = 'CANCELLED') - toInt64(version > 1 and previous_status = 'CANCELLED')) as cancelled,
    sum(toInt64(status = 'SUPPRESSED') - toInt64(version > 1 and previous_status = 'SUPPRESSED')) as suppressed,
    sum(toInt64(attempt > 0 and cause in ('ACCEPTED', 'RETRY_LATER', 'EXHAUSTED', 'UNKNOWN', 'REJECTED'))) as attempts,
    sum(toInt64(cause = 'RESENT')) as resends,
    sum(toInt64(throttled)) as throttles,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(to_sent, is_sent) as accept_to_sent_ms,
    maxIf(to_sent, is_sent) as accept_to_sent_max_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_sent, 4294967295), limits)), toUInt64(1)),
        is_sent) as accept_to_sent_le_ms,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(to_delivered, sent_at is not null and is_delivered) as sent_to_delivered_ms,
    maxIf(to_delivered, sent_at is not null and is_delivered) as sent_to_delivered_max_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_delivered, 4294967295), limits)), toUInt64(1)),
        sent_at is not null and is_delivered) as sent_to_delivered_le_ms,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(to_arrival, is_delivered) as accept_to_delivered_ms,
    maxIf(to_arrival, is_delivered) as accept_to_delivered_max_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_arrival, 4294967295), limits)), toUInt64(1)),
        is_delivered) as accept_to_delivered_le_ms,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(to_read, is_read) as delivered_to_read_ms,
    maxIf(to_read, is_read) as delivered_to_read_max_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_read, 4294967295), limits)), toUInt64(1)),
        is_read) as delivered_to_read_le_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_sent, 4294967295), limits)), toUInt64(1)),
        is_sent and not_before is null and e.throttles = 0) as sla_sent_le_ms
from delivery_events as e
group by tenant_id, channel, account, minute;

create table if not exists new_deliveries_by_hour (
    tenant_id                  LowCardinality(String),
    channel                    LowCardinality(String),
    account                    LowCardinality(String),
    hour                       DateTime('UTC'),
    accepted                   SimpleAggregateFunction(sum, Int64),
    pending                    SimpleAggregateFunction(sum, Int64),
    sent                       SimpleAggregateFunction(sum, Int64),
    delivered                  SimpleAggregateFunction(sum, Int64),
    read                       SimpleAggregateFunction(sum, Int64),
    failed                     SimpleAggregateFunction(sum, Int64),
    expired                    SimpleAggregateFunction(sum, Int64),
    cancelled                  SimpleAggregateFunction(sum, Int64),
    suppressed                 SimpleAggregateFunction(sum, Int64),
    attempts                   SimpleAggregateFunction(sum, Int64),
    resends                    SimpleAggregateFunction(sum, Int64),
    throttles                  SimpleAggregateFunction(sum, Int64),
    accept_to_sent_ms          AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Int64),
    accept_to_sent_max_ms      SimpleAggregateFunction(max, Int64),
    accept_to_sent_le_ms       SimpleAggregateFunction(sumMap, Map(UInt32, UInt64)),
    sent_to_delivered_ms       AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Int64),
    sent_to_delivered_max_ms   SimpleAggregateFunction(max, Int64),
    sent_to_delivered_le_ms    SimpleAggregateFunction(sumMap, Map(UInt32, UInt64)),
    accept_to_delivered_ms     AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Int64),
    accept_to_delivered_max_ms SimpleAggregateFunction(max, Int64),
    accept_to_delivered_le_ms  SimpleAggregateFunction(sumMap, Map(UInt32, UInt64)),
    delivered_to_read_ms       AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Int64),
    delivered_to_read_max_ms   SimpleAggregateFunction(max, Int64),
    delivered_to_read_le_ms    SimpleAggregateFunction(sumMap, Map(UInt32, UInt64)),
    sla_sent_le_ms             SimpleAggregateFunction(sumMap, Map(UInt32, UInt64))
)
engine = AggregatingMergeTree
partition by toYYYYMM(hour)
order by (tenant_id, channel, account, hour)
ttl hour + interval 1830 day
settings non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;
exchange tables deliveries_by_hour and new_deliveries_by_hour;
drop table new_deliveries_by_hour;
insert into deliveries_by_hour
with
    [10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 3600000, 4294967295] as limits,
    sent_at is not null and previous_status = 'PENDING' and status in ('SENT', 'DELIVERED', 'READ') as is_sent,
    delivered_at is not null and not delivered_implied and previous_status in ('PENDING', 'SENT') and status in ('DELIVERED', 'READ')
        as is_delivered,
    read_at is not null and delivered_at is not null and not delivered_implied and previous_status != 'READ' and status = 'READ' as is_read,
    greatest(0, dateDiff('millisecond', accepted_at, assumeNotNull(sent_at))) as to_sent,
    greatest(0, dateDiff('millisecond', assumeNotNull(sent_at), assumeNotNull(delivered_at))) as to_delivered,
    greatest(0, dateDiff('millisecond', accepted_at, assumeNotNull(delivered_at))) as to_arrival,
    greatest(0, dateDiff('millisecond', assumeNotNull(delivered_at), assumeNotNull(read_at))) as to_read
select
    tenant_id,
    channel,
    account,
    toStartOfHour(toDateTime(least(greatest(accepted_at, toDateTime64('1970-01-01 00:00:00', 3, 'UTC')),
        toDateTime64('2099-12-31 23:59:59', 3, 'UTC')), 'UTC')) as hour,
    sum(toInt64(version = 1)) as accepted,
    sum(toInt64(status = 'PENDING') - toInt64(version > 1 and previous_status = 'PENDING')) as pending,
    sum(toInt64(status = 'SENT') - toInt64(version > 1 and previous_status = 'SENT')) as sent,
    sum(toInt64(status = 'DELIVERED') - toInt64(version > 1 and previous_status = 'DELIVERED')) as delivered,
    sum(toInt64(status = 'READ') - toInt64(version > 1 and previous_status = 'READ')) as read,
    sum(toInt64(status = 'FAILED') - toInt64(version > 1 and previous_status = 'FAILED')) as failed,
    sum(toInt64(status = 'EXPIRED') - toInt64(version > 1 and previous_status = 'EXPIRED')) as expired,
    sum(toInt64(status = 'CANCELLED') - toInt64(version > 1 and previous_status = 'CANCELLED')) as cancelled,
    sum(toInt64(status = 'SUPPRESSED') - toInt64(version > 1 and previous_status = 'SUPPRESSED')) as suppressed,
    sum(toInt64(attempt > 0 and cause in ('ACCEPTED', 'RETRY_LATER', 'EXHAUSTED', 'UNKNOWN', 'REJECTED'))) as attempts,
    sum(toInt64(cause = 'RESENT')) as resends,
    sum(toInt64(throttled)) as throttles,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(to_sent, is_sent) as accept_to_sent_ms,
    maxIf(to_sent, is_sent) as accept_to_sent_max_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_sent, 4294967295), limits)), toUInt64(1)),
        is_sent) as accept_to_sent_le_ms,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(to_delivered, sent_at is not null and is_delivered) as sent_to_delivered_ms,
    maxIf(to_delivered, sent_at is not null and is_delivered) as sent_to_delivered_max_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_delivered, 4294967295), limits)), toUInt64(1)),
        sent_at is not null and is_delivered) as sent_to_delivered_le_ms,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(to_arrival, is_delivered) as accept_to_delivered_ms,
    maxIf(to_arrival, is_delivered) as accept_to_delivered_max_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_arrival, 4294967295), limits)), toUInt64(1)),
        is_delivered) as accept_to_delivered_le_ms,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(to_read, is_read) as delivered_to_read_ms,
    maxIf(to_read, is_read) as delivered_to_read_max_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_read, 4294967295), limits)), toUInt64(1)),
        is_read) as delivered_to_read_le_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_sent, 4294967295), limits)), toUInt64(1)),
        is_sent and not_before is null and e.throttles = 0) as sla_sent_le_ms
from delivery_events as e
group by tenant_id, channel, account, hour
settings max_partitions_per_insert_block = 0, insert_deduplicate = 0;
create materialized view if not exists deliveries_by_hour_from_events to deliveries_by_hour as
with
    [10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 3600000, 4294967295] as limits,
    sent_at is not null and previous_status = 'PENDING' and status in ('SENT', 'DELIVERED', 'READ') as is_sent,
    delivered_at is not null and not delivered_implied and previous_status in ('PENDING', 'SENT') and status in ('DELIVERED', 'READ')
        as is_delivered,
    read_at is not null and delivered_at is not null and not delivered_implied and previous_status != 'READ' and status = 'READ' as is_read,
    greatest(0, dateDiff('millisecond', accepted_at, assumeNotNull(sent_at))) as to_sent,
    greatest(0, dateDiff('millisecond', assumeNotNull(sent_at), assumeNotNull(delivered_at))) as to_delivered,
    greatest(0, dateDiff('millisecond', accepted_at, assumeNotNull(delivered_at))) as to_arrival,
    greatest(0, dateDiff('millisecond', assumeNotNull(delivered_at), assumeNotNull(read_at))) as to_read
select
    tenant_id,
    channel,
    account,
    toStartOfHour(toDateTime(least(greatest(accepted_at, toDateTime64('1970-01-01 00:00:00', 3, 'UTC')),
        toDateTime64('2099-12-31 23:59:59', 3, 'UTC')), 'UTC')) as hour,
    sum(toInt64(version = 1)) as accepted,
    sum(toInt64(status = 'PENDING') - toInt64(version > 1 and previous_status = 'PENDING')) as pending,
    sum(toInt64(status = 'SENT') - toInt64(version > 1 and previous_status = 'SENT')) as sent,
    sum(toInt64(status = 'DELIVERED') - toInt64(version > 1 and previous_status = 'DELIVERED')) as delivered,
    sum(toInt64(status = 'READ') - toInt64(version > 1 and previous_status = 'READ')) as read,
    sum(toInt64(status = 'FAILED') - toInt64(version > 1 and previous_status = 'FAILED')) as failed,
    sum(toInt64(status = 'EXPIRED') - toInt64(version > 1 and previous_status = 'EXPIRED')) as expired,
    sum(toInt64(status = 'CANCELLED') - toInt64(version > 1 and previous_status = 'CANCELLED')) as cancelled,
    sum(toInt64(status = 'SUPPRESSED') - toInt64(version > 1 and previous_status = 'SUPPRESSED')) as suppressed,
    sum(toInt64(attempt > 0 and cause in ('ACCEPTED', 'RETRY_LATER', 'EXHAUSTED', 'UNKNOWN', 'REJECTED'))) as attempts,
    sum(toInt64(cause = 'RESENT')) as resends,
    sum(toInt64(throttled)) as throttles,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(to_sent, is_sent) as accept_to_sent_ms,
    maxIf(to_sent, is_sent) as accept_to_sent_max_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_sent, 4294967295), limits)), toUInt64(1)),
        is_sent) as accept_to_sent_le_ms,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(to_delivered, sent_at is not null and is_delivered) as sent_to_delivered_ms,
    maxIf(to_delivered, sent_at is not null and is_delivered) as sent_to_delivered_max_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_delivered, 4294967295), limits)), toUInt64(1)),
        sent_at is not null and is_delivered) as sent_to_delivered_le_ms,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(to_arrival, is_delivered) as accept_to_delivered_ms,
    maxIf(to_arrival, is_delivered) as accept_to_delivered_max_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_arrival, 4294967295), limits)), toUInt64(1)),
        is_delivered) as accept_to_delivered_le_ms,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(to_read, is_read) as delivered_to_read_ms,
    maxIf(to_read, is_read) as delivered_to_read_max_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_read, 4294967295), limits)), toUInt64(1)),
        is_read) as delivered_to_read_le_ms,
    sumMapIf(map(toUInt32(arrayFirst(limit -> limit >= least(to_sent, 4294967295), limits)), toUInt64(1)),
        is_sent and not_before is null and e.throttles = 0) as sla_sent_le_ms
from delivery_events as e
group by tenant_id, channel, account, hour;

-- What route accepted, by the minute: the other side of the audit balance.
create table if not exists accepted_by_minute (
    tenant_id LowCardinality(String),
    channel   LowCardinality(String),
    minute    DateTime('UTC'),
    accepted  SimpleAggregateFunction(sum, Int64)
)
engine = AggregatingMergeTree
partition by toYYYYMM(minute)
order by (tenant_id, channel, minute)
ttl minute + interval 100 day
settings non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

create materialized view if not exists accepted_by_minute_from_deliveries to accepted_by_minute as
select tenant_id, channel, toStartOfMinute(toDateTime(least(greatest(accepted_at, toDateTime64('1970-01-01 00:00:00', 3, 'UTC')),
        toDateTime64('2099-12-31 23:59:59', 3, 'UTC')), 'UTC')) as minute, toInt64(count()) as accepted
from accepted_deliveries
group by tenant_id, channel, minute;

-- Which deliveries are stalled now, as in 0005.
create or replace view stalled_deliveries as
select tenant_id, channel, account, conversation_id, message_id, delivery_id, sent_at, stalled_at
from deliveries final
where stalled_at is not null
order by channel, account, stalled_at;
