-- (An expression of read_agents.sql.) $2 text: what else the mapping goes by. A hash over all that the mapping reads of an agent `a`:
-- every column as text, so that it is what row_to_json has, and record_send tells where each one ends.
-- look_over.sql makes the same of many agents.
sha256(record_send(row(
  $2::text,
  /* agent columns */ a.id::text /* end */,
  /* tools */ (
    select string_agg(t.said, '' order by t.said)
    from (
      select sha256(record_send(row(/* tool columns */ t.id::text /* end */))) as said
      from public.agent_mcp_tools as l
      join public.mcp_tools as t on t.id = l.mcp_tool_id
      where l.agent_id = a.id
    ) as t
  ) /* end */,
  /* model */ (
    select record_send(row(/* model columns */ m.id::text /* end */))
    from public.global_ai_engines as e
    join public.ai_models as m on m.id = e.language_model_id
    where e.id = a.engine_id
  ) /* end */
)))
