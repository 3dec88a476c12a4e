-- $1 uuid[]: agents that are about to lose their assistants; $2 uuid[]: all agents of the batch; $3 boolean: whether all
-- other agents are going to be looked at, too (a pass); $4 bigint: up to how many nothing else matters.
-- With how many others they must be counted: those that lost theirs within ten minutes, those that are held, and those
-- that would be next, because a pass or a pending change comes to them. Of how many that have an assistant of ours.
with ahead as (
  select l.agent_id
  from agent_sync.ledger as l
  where l.content_hash is not null
    and (
      $3 or exists (
        select from agent_sync.outbox as o
        where o.source = 'agents' and o.due_at <= clock_timestamp() and (o.key is null or o.key <> all ($2::uuid[]::text[]))
      )
    )
    and not exists (
      select from public.agents as a
      where a.id = l.agent_id
        and /* status */ a.status::text = 'active' /* end */
        and /* deleted_at */ a.deleted_at is null /* end */
    )
), going as (
  select agent_id from agent_sync.ledger where state = 'held'
  union
  select agent_id from ahead
  union
  select * from unnest($1::uuid[])
), together as (
  select agent_id from agent_sync.ledger where removed_at > clock_timestamp() - interval '10 minutes'
  union
  select agent_id from going
)
select t.would_go,
  case when t.would_go > $4 then (
    select count(distinct agent_id)
    from agent_sync.ledger
    where content_hash is not null or removed_at > clock_timestamp() - interval '10 minutes'
  ) end as ours,
  (select count(*) from going) as at_once,
  exists (select from agent_sync.ledger where state = 'held') as some_are_held,
  not exists (select from public.agents) as source_is_empty
from (select count(*) as would_go from together) as t;
