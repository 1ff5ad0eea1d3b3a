-- Which deliveries took longest beyond the objective, and where did the time go?
--
-- Exact, from the latest state of each delivery: the worst_n deliveries with the longest time from accepted to sent, of those that took
-- longer than objective_ms. The parts and other_ms add up to total_ms, exactly. A part is null when one of its two times is not known;
-- its time is in other_ms then. Times that go backwards count as no time.
--
-- Columns:
--   tenant_id: the tenant
--   channel: the channel
--   account: our account
--   conversation_id: the conversation
--   message_id: the message
--   delivery_id: the delivery
--   accepted_at: when route accepted it
--   status: where it stands now
--   attempts: calls to the provider
--   accept_to_sent_ms: from accepted to sent; the objective is about this time
--   total_ms: from accepted to delivered, or to sent when no arrival is known
--   waiting_ms: in the lane, behind earlier deliveries: accepted to ready
--   pacing_ms: for its turn under the account's limits, or a free call: ready to the start of the first call
--   attempts_ms: failed attempts and the time between them: start of the first call to start of the last
--   provider_ms: start of the last call to the provider's acceptance
--   receipt_ms: the provider's acceptance to the arrival
--   other_ms: what no part explains
-- Left out: what the objective leaves out: scheduled and throttled deliveries, and those never sent.
-- Table: tenant_id, channel, message_id, accept_to_sent_ms, waiting_ms, pacing_ms, attempts_ms, provider_ms, other_ms, receipt_ms
create or replace view report_breaches as
select
    tenant_id, channel, account, conversation_id, message_id, delivery_id, accepted_at, status, attempts,
    assumeNotNull(t.accept_to_sent_ms) as accept_to_sent_ms,
    total_ms, waiting_ms, pacing_ms, attempts_ms, provider_ms, receipt_ms, other_ms
from timed_deliveries(
    since = {since:DateTime64(3, 'UTC')}, until = {until:DateTime64(3, 'UTC')},
    tenant = {tenant:String}, channel = {channel:String}, account = {account:String}
) as t
where t.sent_at is not null and t.not_before is null and t.throttles = 0 and t.accept_to_sent_ms > {objective_ms:UInt32}
order by accept_to_sent_ms desc, tenant_id, delivery_id
limit {worst_n:UInt32};
