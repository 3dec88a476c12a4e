-- $1 bigint[]: claimed rows; $2 text[]: the agents they named.
-- A retry that waits for one of these agents has nothing left to say: it was read again just now. It carries no edit,
-- so it may go unclaimed; but never waited for, as its claimer may be waiting for our lock on the agent.
with retries as (
  select id from agent_sync.outbox
  where key = any ($2::text[]) and due_at > '-infinity' and id <> all ($1::bigint[])
  for update skip locked
)
delete from agent_sync.outbox
where id = any ($1::bigint[]) or id in (select id from retries);
