-- $1 to $4: as of candidates_*.sql, of which one gives the page; $5 text: what else the mapping goes by; $6 boolean: whether agents' rows
-- name their assistants. Where the page ends, how many agents are on it, how many of them are gone and done with, and those that have
-- to be looked at: all but those of which this one snapshot tells that there is nothing to do. That is where
-- - the agent's only entry in the ledger is the system's, under the agent's own id, and nothing is amiss with it,
-- - the assistant's row is the very version of it that was left as it should be (row_xmin, row_ctid): what is in one never changes,
-- - all that the mapping reads of the agent is as it was then (source_said.sql; here the tools of many agents are put together at once),
--   and the entry says of the assistant what it said then,
-- - and the agent's row names its assistant.
-- Agent by agent (offset 0: the planner has no other way), so that a page costs what is on it, however large the tables are, and what
-- is wide is never kept.
with page as materialized (
  /* candidates */ select a.id from public.agents as a order by a.id limit $2 /* end */
), known as materialized (
  select p.id, l.source_hash, l.content_hash, l.row_hash, l.stands and e.others = 0 as stands, a.id is null and e.left_over = 0 as is_gone,
    a.engine_id, a.is_named, a.said
  from page as p
  left join lateral (
    select l.source_hash, l.content_hash, l.row_hash, s.xmin = l.row_xmin and s.ctid = l.row_ctid as stands
    from agent_sync.ledger as l
    join langgraph_server.assistants as s on s.id = p.id::text
    where l.assistant_id = p.id and l.agent_id = p.id and l.owner = 'system' and l.state = 'synced'
      and l.content_hash is not null and l.row_hash is not null
    offset 0
  ) as l on true
  cross join lateral (
    select count(*) filter (where o.assistant_id <> p.id) as others, count(*) filter (where o.state <> 'removed') as left_over
    from agent_sync.ledger as o
    where o.agent_id = p.id
  ) as e
  left join lateral (
    select a.id, /* engine */ a.engine_id /* end */ as engine_id,
      /* named */ a.langgraph_assistant_id::text = a.id::text /* end */ as is_named,
      case when l.stands then /* agent said */ null::bytea /* end */ end as said
    from public.agents as a
    where a.id = p.id
    offset 0
  ) as a on true
), tools as materialized (
  /* tools */ select t.id, /* tool said */ null::bytea /* end */ as said from public.mcp_tools as t /* end */
), linked as materialized (
  /* links */
  select l.agent_id, string_agg(t.said, '' order by t.said) as said
  from public.agent_mcp_tools as l
  join tools as t on t.id = l.mcp_tool_id
  where l.agent_id >= (select id from known where stands order by id limit 1)
    and l.agent_id <= (select id from known where stands order by id desc limit 1)
  group by l.agent_id
  /* end */
), models as materialized (
  /* models */
  select e.id, /* model said */ null::bytea /* end */ as said
  from public.global_ai_engines as e
  join public.ai_models as m on m.id = e.language_model_id
  /* end */
), looked as (
  select k.id, k.is_gone,
    coalesce(
      case when k.stands and (not $6 or k.is_named)
        then k.source_hash = sha256(
          sha256(record_send(row($5::text, k.said, linked.said, models.said))) || k.content_hash || k.row_hash)
      end,
      false) as is_unchanged
  from known as k
  left join linked on linked.agent_id = k.id
  left join models on models.id = k.engine_id
)
select (select id from page order by id desc limit 1) as last,
  (select count(*) from page) as looked,
  count(*) filter (where is_gone) as gone,
  coalesce(array_agg(distinct id) filter (where not is_gone and not is_unchanged), '{}') as due
from looked;
