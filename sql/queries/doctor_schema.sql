-- Whether there is schema agent_sync with its table of versions, and whether this role may look at it; and whether there is the runtime's
-- table.
select
  exists (
    select
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = 'agent_sync' and c.relname = 'migrations'
  ) as is_installed,
  exists (
    select
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = 'agent_sync' and c.relname = 'migrations'
      and has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select')
  ) as is_open,
  exists (
    select
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = 'langgraph_server' and c.relname = 'assistants'
  ) as has_assistants;
