-- How many deliveries were sent, delivered and read, what share failed, and how long the steps took?
--
-- Exact, from the latest state of each delivery that was accepted in the range. It counts a delivery once, where it stands now, so
-- accepted = pending + sent + failed + expired + cancelled + suppressed. Messages are distinguished by a 64-bit hash: among ten million,
-- the chance that any two have one hash is one in 300,000.
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
    tenant_id, channel, messages, accepted, sent, delivered, read, pending, failed, expired, cancelled, suppressed,
    sent / accepted as sent_share,
    delivered / accepted as delivered_share,
    (failed + expired) / accepted as failure_share,
    resends,
    if(counts[1] = 0, null, accept_to_sent[1]) as accept_to_sent_p50_ms,
    if(counts[1] = 0, null, accept_to_sent[2]) as accept_to_sent_p95_ms,
    if(counts[1] = 0, null, accept_to_sent[3]) as accept_to_sent_p99_ms,
    if(counts[2] = 0, null, sent_to_delivered[1]) as sent_to_delivered_p50_ms,
    if(counts[2] = 0, null, sent_to_delivered[2]) as sent_to_delivered_p95_ms,
    if(counts[2] = 0, null, sent_to_delivered[3]) as sent_to_delivered_p99_ms,
    if(counts[3] = 0, null, delivered_to_read[1]) as delivered_to_read_p50_ms,
    if(counts[3] = 0, null, delivered_to_read[2]) as delivered_to_read_p95_ms,
    if(counts[3] = 0, null, delivered_to_read[3]) as delivered_to_read_p99_ms
from (
    with
        sent_at is not null as has_sent,
        has_sent and delivered_at is not null and not delivered_implied as has_delivered,
        delivered_at is not null and read_at is not null and not delivered_implied as has_read,
        toUnixTimestamp64Milli(assumeNotNull(sent_at)) as sent_ms,
        toUnixTimestamp64Milli(assumeNotNull(delivered_at)) as delivered_ms,
        greatest(0, sent_ms - toUnixTimestamp64Milli(accepted_at)) as to_sent,
        greatest(0, delivered_ms - sent_ms) as to_delivered,
        greatest(0, toUnixTimestamp64Milli(assumeNotNull(read_at)) - delivered_ms) as to_read
    select
        tenant_id,
        channel,
        uniqExact(xxh3(conversation_id, message_id)) as messages,
        count() as accepted,
        countIf(status in ('SENT', 'DELIVERED', 'READ')) as sent,
        countIf(status in ('DELIVERED', 'READ')) as delivered,
        countIf(status = 'READ') as read,
        countIf(status = 'PENDING') as pending,
        countIf(status = 'FAILED') as failed,
        countIf(status = 'EXPIRED') as expired,
        countIf(status = 'CANCELLED') as cancelled,
        countIf(status = 'SUPPRESSED') as suppressed,
        sum(d.resends) as resends,
        [countIf(has_sent), countIf(has_delivered), countIf(has_read)] as counts,
        quantilesExactIf(0.5, 0.95, 0.99)(to_sent, has_sent) as accept_to_sent,
        quantilesExactIf(0.5, 0.95, 0.99)(to_delivered, has_delivered) as sent_to_delivered,
        quantilesExactIf(0.5, 0.95, 0.99)(to_read, has_read) as delivered_to_read
    from current_deliveries(
        since = {since:DateTime64(3, 'UTC')}, until = {until:DateTime64(3, 'UTC')},
        tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
    ) as d
    group by tenant_id, channel
)
order by tenant_id, channel;
