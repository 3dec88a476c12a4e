-- Which of the source tables and columns exist (schemas drift).
select c.relname::text as source, a.attname::text as name
from pg_catalog.pg_class as c
join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relnamespace = to_regnamespace('public')
  and c.relname in ('agents', 'agent_mcp_tools', 'mcp_tools', 'global_ai_engines', 'ai_models')
  and c.relkind in ('r', 'p', 'v', 'm', 'f');
