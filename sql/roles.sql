-- The role that a worker logs in as, with what its statements need and nothing beyond: it reads the source tables, writes
-- one column of public.agents, and works in the tables of agent_sync and on the runtime's assistants. It owns nothing and
-- can change no schema; installing, upgrading and putting triggers back is for the owner of the tables.
--
-- For psql or Supabase's SQL editor, as the owner of the tables (Supabase: postgres). It may be run before and after
-- `agent-sync migrate`, any number of times: what is there is granted, what is not is passed over. So run it again after
-- each upgrade, and when a source table has been made anew. Then give the role a password,
--
--   alter role agent_sync_worker password '…';
--
-- (psql: `\password agent_sync_worker` keeps it out of the server's log) and let DATABASE_URL name the role; through
-- Supabase's pooler its name is agent_sync_worker.<project ref>.

-- Why it bypasses row-level security: a policy of its own would do, until somebody adds a restrictive one; and an agent
-- that is hidden looks like one that is deleted. The worker's transactions say `row_security = off`, so that hiding is an
-- error; only a role that policies do not apply to works then.
do $$
begin
  if to_regrole('agent_sync_worker') is null then
    create role agent_sync_worker login noinherit bypassrls;
  elsif exists (
    select from pg_catalog.pg_roles
    where rolname = 'agent_sync_worker' and (not rolcanlogin or rolinherit or not rolbypassrls)
  ) then
    alter role agent_sync_worker login noinherit bypassrls;
  end if;
exception when insufficient_privilege then
  raise exception 'role % cannot make agent_sync_worker a role that bypasses row-level security: have a superuser run this first', current_user
    using errcode = 'insufficient_privilege';
end;
$$;

-- Lazy sync asks as the caller, `set local role authenticated`, what row-level security lets him read. The worker itself
-- has none of that role's rights.
do $$
begin
  if to_regrole('authenticated') is null then
    raise notice 'there is no role authenticated: lazy sync will have nobody to ask as';
  elsif current_setting('server_version_num')::integer < 160000 then
    if not pg_has_role('agent_sync_worker', 'authenticated', 'member') then
      grant authenticated to agent_sync_worker;
    end if;
  elsif not exists (
    -- In words, as older servers do not know these columns.
    select from pg_catalog.pg_auth_members as m
    where m.roleid = to_regrole('authenticated') and m.member = to_regrole('agent_sync_worker')
      and to_jsonb(m) @> '{"inherit_option": false, "set_option": true}'
  ) then
    execute 'grant authenticated to agent_sync_worker with inherit false, set true';
  end if;
end;
$$;

-- What it may do. Whatever the role that runs this may not grant is left to its owner, with a warning.
do $$
declare
  wanted record;
begin
  for wanted in
    with tables (name, privileges) as (
      values
        ('public.agents', 'select'),
        ('public.agent_mcp_tools', 'select'),
        ('public.mcp_tools', 'select'),
        ('public.global_ai_engines', 'select'),
        ('public.ai_models', 'select'),
        ('agent_sync.migrations', 'select'),
        ('agent_sync.settings', 'select, insert, update'),
        -- Claiming locks rows, which takes `update` on some column; this one cannot be changed, being generated always.
        ('agent_sync.outbox', 'select, insert, delete, update (id)'),
        ('agent_sync.outbox_id_seq', 'select'),
        ('agent_sync.ledger', 'select, insert, update, delete'),
        ('agent_sync.leases', 'select, insert, update, delete'),
        ('agent_sync.versions', 'select, insert, update, delete'),
        ('langgraph_server.assistants', 'select, insert, update, delete')
    ), columns (relation, name, privilege) as (
      values
        ('public.agents', 'langgraph_assistant_id', 'update'),
        -- Whether a user who has assistants still exists, and still is who he was.
        ('auth.users', 'id', 'select'),
        ('auth.users', 'raw_app_meta_data', 'select'),
        ('auth.users', 'is_anonymous', 'select')
    ), relations as (
      -- From the catalog: to_regclass fails where the role that asks may not use the schema.
      select c.oid, n.nspname || '.' || c.relname as name
      from pg_catalog.pg_class as c
      join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
    )
    select 1 as step, format('usage on schema %I', nspname) as privilege
    from pg_catalog.pg_namespace
    where not has_schema_privilege('agent_sync_worker', oid, 'usage') and (
      nspname in ('public', 'agent_sync', 'langgraph_server')
      or nspname = 'auth' and exists (select from relations where name = 'auth.users')
    )
    union all
    select 2, t.privileges || ' on ' || t.name
    from tables as t
    join relations using (name)
    union all
    select 2, format('%s (%I) on %s', c.privilege, c.name, c.relation)
    from columns as c
    join relations as r on r.name = c.relation
    join pg_catalog.pg_attribute as a on a.attrelid = r.oid and a.attname = c.name and not a.attisdropped
    union all
    select 2, format('execute on function %s', p.oid::regprocedure)
    from pg_catalog.pg_proc as p
    join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
    where n.nspname = 'agent_sync' and p.proname in ('fingerprint', 'missing_triggers')
    order by 1, 2
  loop
    begin
      execute format('grant %s to agent_sync_worker', wanted.privilege);
    exception when insufficient_privilege then
      raise warning 'role % cannot grant this, its owner has to: grant % to agent_sync_worker', current_user, wanted.privilege;
    end;
  end loop;
end;
$$;
