-- A message is its tenant, its conversation and its id: the same id in another conversation is counted as another message. The rest is as in 0003.

-- Exact, from the latest state of each delivery accepted in [since, until).
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
    sum(resends) as resends,
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
    from deliveries final
    where accepted_at >= {since:DateTime64(3, 'UTC')} and accepted_at < {until:DateTime64(3, 'UTC')}
)
group by tenant_id, channel
order by tenant_id, channel;
