-- $1 uuid[]: agents. Each with its tools and its model, in one snapshot.
-- Rows travel whole, as json, and are decoded by the worker: a column that is missing is simply absent, and nothing
-- here depends on one. (row_to_json, not to_jsonb: it copies json columns as they are, so that text in a column which
-- nobody asked for cannot fail the batch.) The two subqueries are left out where their tables do not exist.
select a.id, row_to_json(a)::text as agent,
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
from public.agents as a
where a.id = any ($1::uuid[]);
