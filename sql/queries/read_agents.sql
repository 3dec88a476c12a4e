-- $1 uuid[]: agents. Each with its tools and its model, in one snapshot.
-- Rows travel whole, as json, and are decoded by the worker: a column that is missing is simply absent, and nothing
-- here depends on one. (row_to_json, not to_jsonb: it copies json columns as they are, so that text in a column which
-- nobody asked for cannot fail the batch.) The two subqueries are left out where their tables do not exist.
-- `said`: where it is asked for, source_said.sql.
-- Of an agent that is too large, only its size travels, and the columns that say whether it is to have an assistant.
select a.id, case when s.fits then j.agent else s.head end as agent,
  case when s.fits then j.tools end as tools,
  case when s.fits then j.model end as model,
  case when not s.fits then s.bytes end as too_large,
  /* said */ null::bytea /* end */ as said
from public.agents as a
cross join lateral (
  select row_to_json(a)::text as agent,
    /* tools */ (
      select json_agg(row_to_json(t))::text
      from public.agent_mcp_tools as l
      join public.mcp_tools as t on t.id = l.mcp_tool_id
      where l.agent_id = a.id
    ) /* end */ as tools,
    /* model */ (
      select row_to_json(m)::text
      from public.global_ai_engines as e
      join public.ai_models as m on m.id = e.language_model_id
      where e.id = a.engine_id
    ) /* end */ as model
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
