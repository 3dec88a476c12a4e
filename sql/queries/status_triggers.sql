-- How many triggers should stand on the source tables, of those tables that exist; and which of them do not stand as they should.
select (
    select count(*) * 4
    from unnest(array['agents', 'agent_mcp_tools', 'mcp_tools', 'global_ai_engines', 'ai_models']) as s (source)
    join pg_catalog.pg_class as c on c.oid = to_regclass('public.' || s.source) and c.relkind in ('r', 'p')
  ) as expected,
  array(
    select m.event || ' on ' || m.source
    from agent_sync.missing_triggers() with ordinality as m (source, event, ddl, position)
    order by m.position
  ) as missing;
