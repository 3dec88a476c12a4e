-- $1 boolean: assistants are ids that are written back; $2 boolean: assistants live in this database. What this role lacks of what a
-- worker's statements need, as far as the tables exist: sql/roles.sql grants it.
with tables (schema, name, needed) as (
  values
    ('public', 'agents', array['select']),
    ('public', 'agent_mcp_tools', array['select']),
    ('public', 'mcp_tools', array['select']),
    ('public', 'global_ai_engines', array['select']),
    ('public', 'ai_models', array['select']),
    ('agent_sync', 'migrations', array['select']),
    ('agent_sync', 'settings', array['select', 'insert', 'update']),
    ('agent_sync', 'outbox', array['select', 'insert', 'delete']),
    ('agent_sync', 'ledger', array['select', 'insert', 'update', 'delete']),
    ('agent_sync', 'leases', array['select', 'insert', 'update', 'delete']),
    ('agent_sync', 'versions', array['select', 'insert', 'update', 'delete']),
    ('langgraph_server', 'assistants', array['select', 'insert', 'update', 'delete'])
), relations as (
  select c.oid, t.schema || '.' || t.name as name, t.needed, n.oid as schema
  from tables as t
  join pg_catalog.pg_namespace as n on n.nspname = t.schema
  join pg_catalog.pg_class as c on c.relnamespace = n.oid and c.relname = t.name
  where $2 or t.schema <> 'langgraph_server'
)
select 1 as step, 'usage on schema ' || n.nspname as lacking
from pg_catalog.pg_namespace as n
where n.oid in (select schema from relations) and not has_schema_privilege(n.oid, 'usage')
union all
select 2, string_agg(p.privilege, ', ' order by p.position) || ' on ' || r.name
from relations as r
cross join unnest(r.needed) with ordinality as p (privilege, position)
where not has_table_privilege(r.oid, p.privilege)
group by r.name
union all
-- Claiming locks rows, which takes `update` on some column.
select 2, 'update (id) on ' || r.name
from relations as r
where r.name = 'agent_sync.outbox' and not has_any_column_privilege(r.oid, 'update')
union all
select 2, 'update (langgraph_assistant_id) on ' || r.name
from relations as r
join pg_catalog.pg_attribute as a on a.attrelid = r.oid and a.attname = 'langgraph_assistant_id' and not a.attisdropped
where $1 and r.name = 'public.agents' and not has_column_privilege(r.oid, a.attnum, 'update')
union all
select 2, 'execute on function agent_sync.' || p.proname
from pg_catalog.pg_proc as p
join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
where n.nspname = 'agent_sync' and p.proname in ('fingerprint', 'missing_triggers')
  and not has_function_privilege(p.oid, 'execute')
order by 1, 2;
