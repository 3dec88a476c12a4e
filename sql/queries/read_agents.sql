-- $1 uuid[]: agents. Each with its tools and its model, in one snapshot.
-- Rows travel whole, as json, and are decoded by the worker: a column that is missing is simply absent, and nothing
-- here depends on one. (row_to_json, not to_jsonb: it copies json columns as they are, so that text in a column which
-- nobody asked for cannot fail the batch.) Tools and models are left out where their tables do not exist.
-- Joined, not looked up agent by agent: five hundred at a time are read in a fifth of the time.
-- `said`: where it is asked for, source_said.sql.
-- Of an agent that is too large, only its size travels, and the columns that say whether it is to have an assistant.
with tools as (
  /* tools */
  select l.agent_id, json_agg(row_to_json(t))::text as tools, string_agg(s.said, '' order by s.said) as said
  from public.agent_mcp_tools as l
  join public.mcp_tools as t on t.id = l.mcp_tool_id
  cross join lateral (select /* tool said */ null::bytea /* end */ as said) as s
  where l.agent_id = any ($1::uuid[])
  group by l.agent_id
  /* end */
), models as (
  /* models */
  select e.id, row_to_json(m)::text as model, /* model said */ null::bytea /* end */ as said
  from public.global_ai_engines as e
  join public.ai_models as m on m.id = e.language_model_id
  /* end */
)
select a.id, case when s.fits then j.agent else s.head end as agent,
  case when s.fits then j.tools end as tools,
  case when s.fits then j.model end as model,
  case when not s.fits then s.bytes end as too_large,
  j.said
from public.agents as a
left join tools on tools.agent_id = a.id
left join models on /* engine */ models.id = a.engine_id /* end */
cross join lateral (
  select row_to_json(a)::text as agent, tools.tools, models.model, /* said */ null::bytea /* end */ as said
  offset 0 -- so that each is made once
) as j
cross join lateral (
  select bytes, bytes <= /* largest */ 1048576 /* end */ as fits,
    (select row_to_json(h)::text from (select /* head */ a.id /* end */) as h) as head
  from (
    select octet_length(j.agent)::bigint + coalesce(octet_length(j.tools), 0) + coalesce(octet_length(j.model), 0) as bytes
  ) as b
) as s
where a.id = any ($1::uuid[]);
