-- The tables of which row-level security may hide rows from this role.
select n.nspname || '.' || c.relname as name
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.relkind in ('r', 'p')
  and (
    n.nspname = 'public' and c.relname in ('agents', 'agent_mcp_tools', 'mcp_tools', 'global_ai_engines', 'ai_models')
    or n.nspname = 'agent_sync'
    or n.nspname = 'langgraph_server' and c.relname = 'assistants'
  )
  and row_security_active(c.oid)
order by n.nspname <> 'public', c.relname;
