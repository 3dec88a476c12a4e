-- (An expression of glance.sql, of one agent `a`.) $3 text: what else the mapping goes by. The same as source_said.sql, which has tools and
-- models put together for many.
sha256(record_send(row(
  $3::text,
  /* agent said */ null::bytea /* end */,
  /* tools */ (
    select string_agg(t.said, '' order by t.said)
    from (
      select /* tool said */ null::bytea /* end */ as said
      from public.agent_mcp_tools as l
      join public.mcp_tools as t on t.id = l.mcp_tool_id
      where l.agent_id = a.id
    ) as t
  ) /* end */,
  /* model */ (
    select /* model said */ null::bytea /* end */
    from public.global_ai_engines as e
    join public.ai_models as m on m.id = e.language_model_id
    where e.id = a.engine_id
  ) /* end */
)))
