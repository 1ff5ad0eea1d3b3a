-- Which records did stages refuse, and why?
--
-- Exact, from the dead letters that were refused in the range. docs/topics.md explains each cause.
--
-- Columns:
--   tenant_id: the tenant; empty when the record could not be read
--   channel: the channel of the topic, or of the receipt inside; empty when there is none
--   stage: what refused it: a stage, or the gateway
--   cause: why
--   source_topic: the topic it was read from
--   number: how many
--   value_bytes: the size of their values
--   first_at: the first
--   last_at: the last
-- Left out: their content: `chat4all` reads it in topic dead-letters.
-- Ignores: account
-- Table: tenant_id, channel, stage, cause, source_topic, number, last_at
create or replace view report_dead_letters as
select
    tenant_id, channel, stage, cause, source_topic, count() as number, sum(l.value_bytes) as value_bytes, min(refused_at) as first_at,
    max(refused_at) as last_at
from dead_letter_events as l final
where refused_at >= {since:DateTime64(3, 'UTC')} and refused_at < {until:DateTime64(3, 'UTC')}
    and ({tenant:String} = '' or tenant_id = {tenant:String})
    and ({channel:String} = '' or channel = {channel:String})
    and {account:String} = {account:String}
group by tenant_id, channel, stage, cause, source_topic
order by number desc, tenant_id, channel, stage, cause, source_topic;
