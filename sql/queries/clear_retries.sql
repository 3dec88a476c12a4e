-- $1 text[]: agents whose pending retries have nothing left to say: they were looked at just now.
-- A retry carries no edit, so it may go without being claimed; but it is never waited for, as whoever has claimed it may
-- be waiting for our lock on the agent.
with retries as (
  select id from agent_sync.outbox where key = any ($1::text[]) and due_at > '-infinity' for update skip locked
)
delete from agent_sync.outbox as o using retries where o.id = retries.id;
