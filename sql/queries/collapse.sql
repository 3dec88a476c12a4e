-- $1 bigint: how many rows at most.
-- Replaces changes by one that stands for all agents, in one statement: whoever made the replaced ones had committed
-- before, so the look at everything that follows sees them. Retries stay, with their pauses.
with gone as (
  delete from agent_sync.outbox
  where id in (select id from agent_sync.outbox where due_at = '-infinity' order by id limit $1 for update skip locked)
  returning id
), marked as (
  insert into agent_sync.outbox (source, key) select 'agents', null where exists (select from gone)
)
select count(*) as collapsed from gone;
