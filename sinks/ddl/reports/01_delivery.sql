-- How many deliveries were sent, delivered and read, what share failed, and how long the steps took?
--
-- Exact, from the latest state of each delivery that was accepted in the range. It counts a delivery once, where it stands now, so
-- accepted = pending + sent + failed + expired + cancelled + suppressed.
-- A scheduled delivery counts from its acceptance, not from the time it was scheduled for.
--
-- Columns:
--   tenant_id: the tenant
--   channel: the channel
--   messages: different messages; a message is its tenant, conversation and id
--   accepted: deliveries that stage route accepted in the range
--   sent: SENT or further
--   delivered: DELIVERED or further; a channel that does not report it never gets there (report coverage)
--   read: READ
--   pending: no end yet: waiting, or being sent
--   failed: FAILED: refused for good, or no more attempts
--   expired: EXPIRED: not sent before it expired
--   cancelled: CANCELLED
--   suppressed: SUPPRESSED: not sent, because the person wants none (report suppressed)
--   sent_share: sent / accepted
--   delivered_share: delivered / accepted
--   failure_share: (failed + expired) / accepted
--   resends: attempts repeated after an unknown outcome: the bound on duplicates toward people
--   accept_to_sent_p50_ms: median, from the acceptance by route to the acceptance by the provider; null when nothing was measured
--   accept_to_sent_p95_ms: the same, 95th percentile
--   accept_to_sent_p99_ms: the same, 99th percentile
--   sent_to_delivered_p50_ms: median, from the provider's acceptance to the arrival
--   sent_to_delivered_p95_ms: the same, 95th percentile
--   sent_to_delivered_p99_ms: the same, 99th percentile
--   delivered_to_read_p50_ms: median, from the arrival to the reading
--   delivered_to_read_p95_ms: the same, 95th percentile
--   delivered_to_read_p99_ms: the same, 99th percentile
-- Left out: signals (typing, mark_read). Times of a DELIVERED that only follows from READ. A time that two clocks make negative counts as 0.
-- Table: tenant_id, channel, accepted, sent, delivered, read, pending, failed, expired, suppressed, failure_share
-- Table: tenant_id, channel, accept_to_sent_p50_ms, accept_to_sent_p95_ms, accept_to_sent_p99_ms, sent_to_delivered_p50_ms, sent_to_delivered_p95_ms, sent_to_delivered_p99_ms
create or replace view report_delivery as
select
    tenant_id,
    channel,
    uniqExact(conversation_id, message_id) as messages,
    count() as accepted,
    countIf(status in ('SENT', 'DELIVERED', 'READ')) as sent,
    countIf(status in ('DELIVERED', 'READ')) as delivered,
    countIf(status = 'READ') as read,
    countIf(status = 'PENDING') as pending,
    countIf(status = 'FAILED') as failed,
    countIf(status = 'EXPIRED') as expired,
    countIf(status = 'CANCELLED') as cancelled,
    countIf(status = 'SUPPRESSED') as suppressed,
    countIf(status in ('SENT', 'DELIVERED', 'READ')) / count() as sent_share,
    countIf(status in ('DELIVERED', 'READ')) / count() as delivered_share,
    countIf(status in ('FAILED', 'EXPIRED')) / count() as failure_share,
    sum(d.resends) as resends,
    quantileExactOrNullIf(0.5)(to_sent, has_sent) as accept_to_sent_p50_ms,
    quantileExactOrNullIf(0.95)(to_sent, has_sent) as accept_to_sent_p95_ms,
    quantileExactOrNullIf(0.99)(to_sent, has_sent) as accept_to_sent_p99_ms,
    quantileExactOrNullIf(0.5)(to_delivered, has_delivered) as sent_to_delivered_p50_ms,
    quantileExactOrNullIf(0.95)(to_delivered, has_delivered) as sent_to_delivered_p95_ms,
    quantileExactOrNullIf(0.99)(to_delivered, has_delivered) as sent_to_delivered_p99_ms,
    quantileExactOrNullIf(0.5)(to_read, has_read) as delivered_to_read_p50_ms,
    quantileExactOrNullIf(0.95)(to_read, has_read) as delivered_to_read_p95_ms,
    quantileExactOrNullIf(0.99)(to_read, has_read) as delivered_to_read_p99_ms
from (
    select
        tenant_id, channel, conversation_id, message_id, status, resends,
        sent_at is not null as has_sent,
        sent_at is not null and delivered_at is not null and not delivered_implied as has_delivered,
        delivered_at is not null and read_at is not null and not delivered_implied as has_read,
        greatest(0, dateDiff('millisecond', accepted_at, assumeNotNull(sent_at))) as to_sent,
        greatest(0, dateDiff('millisecond', assumeNotNull(sent_at), assumeNotNull(delivered_at))) as to_delivered,
        greatest(0, dateDiff('millisecond', assumeNotNull(delivered_at), assumeNotNull(read_at))) as to_read
    from current_deliveries(
        since = {since:DateTime64(3, 'UTC')}, until = {until:DateTime64(3, 'UTC')},
        tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
    )
) as d
group by tenant_id, channel
order by tenant_id, channel;
