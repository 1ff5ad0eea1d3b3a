-- Deliveries by the minute and the hour they were accepted in.
--
-- Counted once by double entry: a transition adds one to its status and takes one from the status before it; a delivery's first
-- transition only adds. So each sum is the number of deliveries that stand at that status now, whatever way they came.
-- A time to a step is taken at the transition that makes the step from below. Statuses never go back, so a delivery gives at most one;
-- steps that were skipped, concluded (READ without a DELIVERED receipt) or made after a failure give none.

create table if not exists deliveries_by_minute (
    tenant_id            LowCardinality(String),
    channel              LowCardinality(String),
    minute               DateTime('UTC'),
    accepted             SimpleAggregateFunction(sum, Int64),
    pending              SimpleAggregateFunction(sum, Int64),
    sent                 SimpleAggregateFunction(sum, Int64),
    delivered            SimpleAggregateFunction(sum, Int64),
    read                 SimpleAggregateFunction(sum, Int64),
    failed               SimpleAggregateFunction(sum, Int64),
    expired              SimpleAggregateFunction(sum, Int64),
    cancelled            SimpleAggregateFunction(sum, Int64),
    suppressed           SimpleAggregateFunction(sum, Int64),
    accept_to_sent_ms    AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Int64),
    sent_to_delivered_ms AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Int64)
)
engine = AggregatingMergeTree
partition by toYYYYMM(minute)
order by (tenant_id, channel, minute)
settings non_replicated_deduplication_window = 10000;

create table if not exists deliveries_by_hour (
    tenant_id            LowCardinality(String),
    channel              LowCardinality(String),
    hour                 DateTime('UTC'),
    accepted             SimpleAggregateFunction(sum, Int64),
    pending              SimpleAggregateFunction(sum, Int64),
    sent                 SimpleAggregateFunction(sum, Int64),
    delivered            SimpleAggregateFunction(sum, Int64),
    read                 SimpleAggregateFunction(sum, Int64),
    failed               SimpleAggregateFunction(sum, Int64),
    expired              SimpleAggregateFunction(sum, Int64),
    cancelled            SimpleAggregateFunction(sum, Int64),
    suppressed           SimpleAggregateFunction(sum, Int64),
    accept_to_sent_ms    AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Int64),
    sent_to_delivered_ms AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Int64)
)
engine = AggregatingMergeTree
partition by toYYYYMM(hour)
order by (tenant_id, channel, hour)
settings non_replicated_deduplication_window = 10000;

create materialized view if not exists deliveries_by_minute_from_events to deliveries_by_minute as
select
    tenant_id,
    channel,
    toStartOfMinute(accepted_at) as minute,
    sum(toInt64(version = 1)) as accepted,
    sum(toInt64(status = 'PENDING') - toInt64(version > 1 and previous_status = 'PENDING')) as pending,
    sum(toInt64(status = 'SENT') - toInt64(version > 1 and previous_status = 'SENT')) as sent,
    sum(toInt64(status = 'DELIVERED') - toInt64(version > 1 and previous_status = 'DELIVERED')) as delivered,
    sum(toInt64(status = 'READ') - toInt64(version > 1 and previous_status = 'READ')) as read,
    sum(toInt64(status = 'FAILED') - toInt64(version > 1 and previous_status = 'FAILED')) as failed,
    sum(toInt64(status = 'EXPIRED') - toInt64(version > 1 and previous_status = 'EXPIRED')) as expired,
    sum(toInt64(status = 'CANCELLED') - toInt64(version > 1 and previous_status = 'CANCELLED')) as cancelled,
    sum(toInt64(status = 'SUPPRESSED') - toInt64(version > 1 and previous_status = 'SUPPRESSED')) as suppressed,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(
        greatest(0, dateDiff('millisecond', accepted_at, assumeNotNull(sent_at))),
        sent_at is not null and previous_status = 'PENDING' and status in ('SENT', 'DELIVERED', 'READ')
    ) as accept_to_sent_ms,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(
        greatest(0, dateDiff('millisecond', assumeNotNull(sent_at), assumeNotNull(delivered_at))),
        sent_at is not null and delivered_at is not null and not delivered_implied
        and previous_status in ('PENDING', 'SENT') and status in ('DELIVERED', 'READ')
    ) as sent_to_delivered_ms
from delivery_events
group by tenant_id, channel, minute;

create materialized view if not exists deliveries_by_hour_from_events to deliveries_by_hour as
select
    tenant_id,
    channel,
    toStartOfHour(accepted_at) as hour,
    sum(toInt64(version = 1)) as accepted,
    sum(toInt64(status = 'PENDING') - toInt64(version > 1 and previous_status = 'PENDING')) as pending,
    sum(toInt64(status = 'SENT') - toInt64(version > 1 and previous_status = 'SENT')) as sent,
    sum(toInt64(status = 'DELIVERED') - toInt64(version > 1 and previous_status = 'DELIVERED')) as delivered,
    sum(toInt64(status = 'READ') - toInt64(version > 1 and previous_status = 'READ')) as read,
    sum(toInt64(status = 'FAILED') - toInt64(version > 1 and previous_status = 'FAILED')) as failed,
    sum(toInt64(status = 'EXPIRED') - toInt64(version > 1 and previous_status = 'EXPIRED')) as expired,
    sum(toInt64(status = 'CANCELLED') - toInt64(version > 1 and previous_status = 'CANCELLED')) as cancelled,
    sum(toInt64(status = 'SUPPRESSED') - toInt64(version > 1 and previous_status = 'SUPPRESSED')) as suppressed,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(
        greatest(0, dateDiff('millisecond', accepted_at, assumeNotNull(sent_at))),
        sent_at is not null and previous_status = 'PENDING' and status in ('SENT', 'DELIVERED', 'READ')
    ) as accept_to_sent_ms,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(
        greatest(0, dateDiff('millisecond', assumeNotNull(sent_at), assumeNotNull(delivered_at))),
        sent_at is not null and delivered_at is not null and not delivered_implied
        and previous_status in ('PENDING', 'SENT') and status in ('DELIVERED', 'READ')
    ) as sent_to_delivered_ms
from delivery_events
group by tenant_id, channel, hour;
