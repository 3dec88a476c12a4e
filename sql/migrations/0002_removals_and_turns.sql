-- agent-sync, version 2: what the guard before removals needs to know, and the organization of each change, so that
-- organizations take turns.

-- A worker of version 1 goes on meanwhile and afterwards, but knows nothing of the guard. (From version 2 on, a worker that
-- meets a newer schema stops writing.)
alter table agent_sync.ledger add column if not exists organization_id uuid; -- the agent's, when last written
-- When the assistant was removed under the guard's eyes; null where an operator had allowed it.
alter table agent_sync.ledger add column if not exists removed_at timestamptz;
create index if not exists ledger_removed_at_idx on agent_sync.ledger (removed_at) where removed_at is not null;
create index if not exists ledger_held_idx on agent_sync.ledger (agent_id) where state = 'held';

-- Changing the outbox locks editors out of it, so it must be over in a moment, however much it holds: it is emptied, and
-- every agent counts as changed instead.
do $$
begin
  if not exists (
    select from pg_catalog.pg_attribute
    where attrelid = 'agent_sync.outbox'::regclass and attname = 'organization' and not attisdropped
  ) then
    -- Whoever comes after us waits for as long as we do.
    perform set_config('lock_timeout', '50ms', true);
    lock table agent_sync.outbox in access exclusive mode;
    if exists (select from agent_sync.outbox) then
      truncate agent_sync.outbox;
      insert into agent_sync.outbox (source, key) values ('agents', null);
    end if;
    -- Whose turn it is. Text, so that no cast can fail an edit; empty where it is not known.
    alter table agent_sync.outbox add column organization text not null default '';
    create index outbox_turns_idx on agent_sync.outbox (organization, id)
    where source in ('agents', 'agent_mcp_tools') and key is not null;
  end if;
end;
$$;

-- As before, but each change with its organization. (The function without them stays, for whole tables and for edits that
-- are under way while this is installed.)
create or replace function agent_sync.record(source text, keys text[], organizations text[]) returns void
language plpgsql security definer
set search_path = ''
as $$
begin
  if keys is null or pg_catalog.to_regclass('agent_sync.outbox') is null then
    return;
  end if;
  insert into agent_sync.outbox (source, key, organization)
  -- Cut, as it is in an index: a value that does not fit there would fail the edit.
  select record.source, c.key, coalesce(left(c.organization, 64), '')
  from unnest(keys, organizations) as c (key, organization);
  perform pg_catalog.pg_notify('agent_sync', '');
end;
$$;

-- Of inserts and deletes. Where an organization cannot be told (schemas drift) the change counts without.
create or replace function agent_sync.record_rows() returns trigger
language plpgsql security definer
set search_path = ''
as $$
declare
  keys text[];
  organizations text[];
begin
  begin
    begin
      case tg_table_name
        when 'agents' then
          select array_agg(r.id::text), array_agg(r.organization_id::text) into keys, organizations from rows as r;
        when 'agent_mcp_tools' then
          -- Not from public.agents: an edit of links would wait for its locks, and conflict with its serializable editors.
          select array_agg(l.agent_id::text), array_agg(a.organization_id::text) into keys, organizations
          from (select distinct r.agent_id from rows as r where r.agent_id is not null) as l
          left join agent_sync.ledger as a on a.assistant_id = l.agent_id;
        else
          select array_agg(r.id::text) into keys from rows as r;
      end case;
    exception when others then
      organizations := null;
      if tg_table_name = 'agent_mcp_tools' then
        select array_agg(distinct r.agent_id::text) into keys from rows as r where r.agent_id is not null;
      else
        select array_agg(r.id::text) into keys from rows as r;
      end if;
    end;
  exception when others then
    keys := array[null::text];
  end;
  perform agent_sync.record(tg_table_name, keys, organizations);
  return null;
end;
$$;

-- Of updates: as in version 1, and the organization is what an agent's row says (of one that moves, either).
create or replace function agent_sync.record_update() returns trigger
language plpgsql security definer
set search_path = ''
as $$
declare
  keys text[];
  organizations text[];
  key_column text := case tg_table_name when 'agent_mcp_tools' then 'agent_id' else 'id' end;
  mapped text[] := case tg_table_name
    when 'agents' then array[
      'organization_id', 'name', 'description', 'status', 'deleted_at', 'graph_id', 'engine_id', 'system_prompt',
      'sampling_params', 'temperature', 'max_tokens', 'assistant_tool_ids'
    ]
    when 'agent_mcp_tools' then array['mcp_tool_id']
    when 'mcp_tools' then array['tool_name', 'endpoint_url', 'auth_required']
    when 'global_ai_engines' then array['language_model_id']
    when 'ai_models' then array['runtime_model_name']
  end;
begin
  begin
    with before as (
      select r.doc ->> key_column as key, (select array_agg((r.doc -> m)::text) from unnest(mapped) as m) as content
      from (select to_jsonb(o) as doc from old_rows as o offset 0) as r
    ), after as (
      select r.doc ->> key_column as key, (select array_agg((r.doc -> m)::text) from unnest(mapped) as m) as content
      from (select to_jsonb(n) as doc from new_rows as n offset 0) as r
    ), changed as (
      (select * from before except select * from after) union all (select * from after except select * from before)
    )
    select array_agg(c.key), array_agg(c.organization) into keys, organizations
    from (
      select key, case tg_table_name when 'agents' then max(trim(both '"' from nullif(content[1], 'null'))) end as organization
      from changed
      where key is not null
      group by key
    ) as c;
  exception when others then
    keys := array[null::text];
    organizations := null;
  end;
  perform agent_sync.record(tg_table_name, keys, organizations);
  return null;
end;
$$;

revoke all on all functions in schema agent_sync from public;
