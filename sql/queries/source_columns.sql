-- Which of the source tables and columns exist (schemas drift), and which of Supabase Auth's users this role may read.
-- (No semicolon at the end: server.sql is sent behind it.)
select c.relname::text as source, a.attname::text as name
from pg_catalog.pg_class as c
join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relnamespace = to_regnamespace('public')
  and c.relname in ('agents', 'agent_mcp_tools', 'mcp_tools', 'global_ai_engines', 'ai_models')
  and c.relkind in ('r', 'p', 'v', 'm', 'f')
union all
select 'auth.users', a.attname::text
from pg_catalog.pg_class as c
join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relnamespace = to_regnamespace('auth') and c.relname = 'users' and c.relkind in ('r', 'p')
  and has_schema_privilege(c.relnamespace, 'usage')
  and has_column_privilege(c.oid, a.attnum, 'select')
  and not row_security_active(c.oid)
