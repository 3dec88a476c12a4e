-- agent-sync, version 7: who edits rings only while somebody sleeps. A NOTIFY holds a lock on the whole database until its commit is
-- flushed, so editors who all ring queue behind each other. A worker of version 6 would hear nothing; it stops writing when it meets
-- this version.

-- Turns are looked up by every edit that is recorded, so they are compared byte by byte, and with no predicate to work out. That is over
-- in a moment unless the outbox has grown: then it is emptied, and every agent counts as changed instead.
do $$
begin
  if exists (
    select from pg_catalog.pg_attribute
    where attrelid = 'agent_sync.outbox'::regclass and attname = 'organization' and attcollation <> 'pg_catalog."C"'::regcollation
  ) then
    -- Whoever comes after us waits for as long as we do.
    perform set_config('lock_timeout', '50ms', true);
    lock table agent_sync.outbox in access exclusive mode;
    if (select count(*) from (select from agent_sync.outbox limit 10001) as change) > 10000 then
      truncate agent_sync.outbox;
      insert into agent_sync.outbox (source, key) values ('agents', null);
    end if;
    drop index agent_sync.outbox_turns_idx;
    alter table agent_sync.outbox alter column organization type text collate "C";
    create index outbox_turns_idx on agent_sync.outbox (organization, id);
  end if;
end;
$$;

-- How many changes there have ever been tells a worker whether anybody is editing. Whoever may claim changes may know.
do $$
declare
  grantee text;
begin
  for grantee in
    select distinct acl.grantee::regrole::text
    from pg_catalog.pg_class as c, pg_catalog.aclexplode(c.relacl) as acl
    where c.oid = 'agent_sync.outbox'::regclass and acl.privilege_type = 'DELETE' and acl.grantee not in (0, c.relowner)
  loop
    execute format('grant select on sequence agent_sync.outbox_id_seq to %s', grantee);
  end loop;
end;
$$;

-- Versions are written with every edit, and read by few: whole, and not cut into pieces in a table of their own.
alter table agent_sync.versions set (toast_tuple_target = 8160);

-- Records changed rows, and rings the bell if somebody sleeps. Called by the triggers, in the editing transaction.
--
-- Whoever edits silently holds a lock, shared with all who do, until the edit is there for everybody to see. A worker that wants to sleep
-- asks for that lock for itself: from that moment on nobody gets it any more, and rings instead; it is granted when the last silent edit
-- has ended, the worker looks once more, and sleeps. Nobody ever waits for a worker here: the lock is only tried. (src/changes/bell.rs)
create or replace function agent_sync.record(source text, keys text[], organizations text[]) returns void
language plpgsql security definer
set search_path = ''
as $$
declare
  silent boolean := false;
begin
  -- An edit must survive an outbox that somebody has dropped.
  if keys is null or to_regclass('agent_sync.outbox') is null then
    return;
  end if;
  insert into agent_sync.outbox (source, key, organization)
  -- Cut, as it is in an index: a value that does not fit there would fail the edit.
  select record.source, c.key, coalesce(left(c.organization, 64), '')
  from unnest(keys, organizations) as c (key, organization);
  begin
    silent := pg_try_advisory_xact_lock_shared(hashtextextended('agent_sync.bell', 0));
  exception when others then null; -- no room for one more lock
  end;
  if not silent then
    perform pg_notify('agent_sync', '');
  end if;
end;
$$;

-- For whole tables.
create or replace function agent_sync.record(source text, keys text[]) returns void
language plpgsql security definer
set search_path = ''
as $$
begin
  perform agent_sync.record(source, keys, null);
end;
$$;

-- Of updates. Only what the mapping reads counts: the write-back, updated_at and an application's own columns record nothing.
--
-- An edit of one agent is what has to be cheap, so it is looked at first, and by itself. Agents' columns are named outright; one that is
-- missing (schemas drift) is found in `absent` instead, as names are looked up from the inside out. Rows are compared as bytes (*<>),
-- whatever their types: should the same thing have been written in another way, that is a change which comes to nothing.
create or replace function agent_sync.record_update() returns trigger
language plpgsql security definer
set search_path = ''
as $$
declare
  is_more boolean;
  is_changed boolean := false;
  key text;
  organization text;
  keys text[];
  organizations text[];
  silent boolean := false;
begin
  begin
    if tg_table_name = 'agents' then
      select c.is_more, c.is_changed, c.key, c.organization into is_more, is_changed, key, organization
      from (values (null, null, null, null, null, null, null, null, null, null, null, null, null)) as absent (
        id, organization_id, name, description, status, deleted_at, graph_id, engine_id, system_prompt, sampling_params, temperature,
        max_tokens, assistant_tool_ids
      )
      cross join lateral (
        select exists (select from new_rows offset 1) or o.key is distinct from n.key as is_more,
          o.content operator(pg_catalog.*<>) n.content as is_changed, n.key, n.organization
        from (
          select id::text as key, row(
            organization_id, name, description, status, deleted_at, graph_id, engine_id, system_prompt, sampling_params, temperature,
            max_tokens, assistant_tool_ids
          )::record as content
          from old_rows
        ) as o
        cross join (
          select id::text as key, organization_id::text as organization, row(
            organization_id, name, description, status, deleted_at, graph_id, engine_id, system_prompt, sampling_params, temperature,
            max_tokens, assistant_tool_ids
          )::record as content
          from new_rows
        ) as n
        limit 1
      ) as c;
      if is_more then
        is_changed := false;
        select array_agg(c.key), array_agg(c.organization) into keys, organizations
        from (values (null, null, null, null, null, null, null, null, null, null, null, null, null)) as absent (
          id, organization_id, name, description, status, deleted_at, graph_id, engine_id, system_prompt, sampling_params, temperature,
          max_tokens, assistant_tool_ids
        )
        cross join lateral (
          select coalesce(n.key, o.key) as key,
            case when n.key is null then o.organization else n.organization end as organization
          from (
            select id::text as key, organization_id::text as organization, row(
              organization_id, name, description, status, deleted_at, graph_id, engine_id, system_prompt, sampling_params, temperature,
              max_tokens, assistant_tool_ids
            )::record as content
            from old_rows
          ) as o
          full join (
            select id::text as key, organization_id::text as organization, row(
              organization_id, name, description, status, deleted_at, graph_id, engine_id, system_prompt, sampling_params, temperature,
              max_tokens, assistant_tool_ids
            )::record as content
            from new_rows
          ) as n on n.key = o.key
          where o.key is null or n.key is null or o.content operator(pg_catalog.*<>) n.content
        ) as c;
        if array_position(keys, null) is not null then
          keys := array[null::text];
          organizations := null;
        end if;
      end if;
    else
      -- Tools, models and links. Columns are named as text, so that one which is missing is simply null on both sides. (offset 0: each
      -- row becomes json once, not once a column.)
      with named as (
        select case tg_table_name when 'agent_mcp_tools' then 'agent_id' else 'id' end as key,
          case tg_table_name
            when 'agent_mcp_tools' then array['mcp_tool_id']
            when 'mcp_tools' then array['tool_name', 'endpoint_url', 'auth_required']
            when 'global_ai_engines' then array['language_model_id']
            when 'ai_models' then array['runtime_model_name']
          end as mapped
      ), before as (
        select r.doc ->> named.key as key, (select array_agg((r.doc -> m)::text) from unnest(named.mapped) as m) as content
        from (select to_jsonb(o) as doc from old_rows as o offset 0) as r, named
      ), after as (
        select r.doc ->> named.key as key, (select array_agg((r.doc -> m)::text) from unnest(named.mapped) as m) as content
        from (select to_jsonb(n) as doc from new_rows as n offset 0) as r, named
      ), changed as (
        (select * from before except select * from after) union all (select * from after except select * from before)
      )
      select array_agg(distinct c.key) into keys from changed as c where c.key is not null;
    end if;
  -- The edit goes through, and the whole table counts as changed. (Nothing was written here, so this costs no transaction id.)
  exception when others then
    is_changed := false;
    keys := array[null::text];
    organizations := null;
  end;
  if is_changed is distinct from true then
    if keys is not null then
      perform agent_sync.record(tg_table_name, keys, organizations);
    end if;
    return null;
  end if;
  -- As agent_sync.record, which takes longer to call than to do.
  if to_regclass('agent_sync.outbox') is null then
    return null;
  end if;
  insert into agent_sync.outbox (source, key, organization)
  values (tg_table_name, key, coalesce(left(organization, 64), ''));
  begin
    silent := pg_try_advisory_xact_lock_shared(hashtextextended('agent_sync.bell', 0));
  exception when others then null;
  end;
  if not silent then
    perform pg_notify('agent_sync', '');
  end if;
  return null;
end;
$$;

revoke all on all functions in schema agent_sync from public;
