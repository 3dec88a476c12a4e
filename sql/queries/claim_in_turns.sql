-- $1 text[]: agents to leave for later (a burst of edits is still going on); $2 bigint: how many agents at most; $3 text: the
-- organization whose turn was last.
-- As claim.sql, for when there is more than one batch: a fifth of it goes to the organizations in turn, so that none
-- waits behind the bulk edit of another; the rest to the oldest changes, so that none waits for ever. The turns go on where
-- the last batch has left off, as there may be more organizations than places. With a change come all others of its agent: they need
-- no sync of their own, and however fast agents are edited, no more of them can wait than there are. Agents that somebody works on are
-- passed over: the whole batch would wait for one of them. (When there is not more than one batch, claim.sql's waits for them.)
with recursive circle as (
  select $3::text collate "C" as organization
  union -- not `all`: it ends when it has come round
  select coalesce(
    (
      select organization
      from agent_sync.outbox
      where source in ('agents', 'agent_mcp_tools') and key is not null and organization > c.organization
      order by organization
      limit 1
    ),
    (
      select organization
      from agent_sync.outbox
      where source in ('agents', 'agent_mcp_tools') and key is not null
      order by organization
      limit 1
    )
  )
  from circle as c
), organizations as (
  select organization, row_number() over () as place from (select organization from circle limit $2 / 5) as c
), in_turn as (
  select o.organization, t.key
  from organizations as o
  cross join lateral (
    select key
    from agent_sync.outbox
    where source in ('agents', 'agent_mcp_tools') and key is not null
      and organization = o.organization
      and due_at <= clock_timestamp()
      and key <> all ($1::text[])
    order by left(key, 64)
    limit (select $2 / 5 / count(*) from organizations)
    for update skip locked
  ) as t
), oldest as (
  select organization, key
  from agent_sync.outbox
  where source in ('agents', 'agent_mcp_tools') and key is not null
    and due_at <= clock_timestamp()
    and key <> all ($1::text[])
  order by id
  limit $2 - $2 / 5
  for update skip locked
), free as materialized (
  select organization, key
  from (select * from in_turn union select * from oldest) as a
  where pg_try_advisory_xact_lock(hashtextextended('agent_sync:' || a.key, 0)) -- as in lock_agents.sql
), claimed as (
  select c.id, c.key, c.changed_at, c.due_at
  from free as a
  cross join lateral (
    select id, key, changed_at, due_at
    from agent_sync.outbox
    where source in ('agents', 'agent_mcp_tools')
      and organization = a.organization and left(key, 64) = left(a.key, 64) and key = a.key
      and due_at <= clock_timestamp()
    for update skip locked
  ) as c
)
select id, key,
  (extract(epoch from clock_timestamp() - changed_at) * 1000)::bigint as age_ms,
  due_at > '-infinity' as retry,
  (select organization from organizations order by place desc limit 1) as turn
from claimed
order by id;
