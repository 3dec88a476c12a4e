-- agent-sync, version 1: the outbox, the ledger, and the triggers' functions.
-- Everything here is idempotent and belongs to the role that installs it.

create schema if not exists agent_sync;
revoke all on schema agent_sync from public;

create table if not exists agent_sync.migrations (
  version integer primary key,
  applied_at timestamptz not null default now()
);

-- What all workers on this database share. One row.
create table if not exists agent_sync.settings (
  singleton boolean primary key default true check (singleton),
  scope text not null,
  updated_at timestamptz not null default now()
);

-- Which row changed. Appended to by the triggers in the editing transaction, emptied by the workers.
-- What a change means, and which agents it touches, is decided when it is drained: a trigger cannot see
-- what another transaction has not committed yet.
create table if not exists agent_sync.outbox (
  id bigint generated always as identity primary key,
  source text not null, -- a table of schema public
  key text, -- the changed row's key; null: every row of the table. Text, so that no cast can fail an edit
  changed_at timestamptz not null default clock_timestamp(),
  due_at timestamptz not null default '-infinity' -- later for the retry of a failed agent
);
-- A queue dies of dead rows at its head: vacuum by count, not by share.
alter table agent_sync.outbox set (
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_insert_scale_factor = 0,
  autovacuum_vacuum_insert_threshold = 10000
);
-- The few rows that do not name an agent are found without reading past the many that do.
create index if not exists outbox_shared_idx on agent_sync.outbox (id)
where source not in ('agents', 'agent_mcp_tools') or key is null;
-- Retries, by agent.
create index if not exists outbox_retries_idx on agent_sync.outbox (key) where due_at > '-infinity';

-- Which assistants are ours. Only the workers write it; nothing in an assistant's own metadata decides anything.
create table if not exists agent_sync.ledger (
  assistant_id uuid primary key,
  agent_id uuid not null,
  owner text not null, -- 'system', or the id of the user whose copy it is
  state text not null check (state in ('synced', 'failed', 'held', 'conflict', 'removed')),
  content_hash bytea, -- of the content last written; null: no assistant of ours stands under this id
  row_hash bytea, -- agent_sync.fingerprint of the row as it was left; differs once somebody edits it
  error text, -- why it is failed, held or in conflict
  attempts integer not null default 0, -- failures in a row
  updated_at timestamptz not null default now()
);
create index if not exists ledger_agent_id_idx on agent_sync.ledger (agent_id);

-- The table of the LangGraph runtime that shares this database; made here where it does not exist yet.
create schema if not exists langgraph_server;
create table if not exists langgraph_server.assistants (
  id text primary key,
  graph_id text,
  config jsonb,
  context jsonb,
  metadata jsonb,
  name text,
  description text,
  version integer default 1,
  created_at timestamptz,
  updated_at timestamptz
);

-- What an assistant's row says, apart from what may move freely: foreign metadata, synced_at, version and times.
create or replace function agent_sync.fingerprint(
  graph_id text, config jsonb, context jsonb, name text, description text, metadata jsonb
) returns bytea
language sql immutable parallel safe
set search_path = ''
as $$
  select pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.jsonb_build_array(
    graph_id, config, nullif(context, '{}'), name, description,
    metadata -> 'supabase_agent_id', metadata -> 'supabase_organization_id', metadata -> 'owner'
  )::text, 'UTF8'));
$$;

-- Records changed rows and rings the bell. Called by the triggers below, in the editing transaction.
-- The bell carries nothing: a payload could be forged, and one over 7,999 bytes would abort the edit.
create or replace function agent_sync.record(source text, keys text[]) returns void
language plpgsql security definer
set search_path = ''
as $$
begin
  -- An edit must survive an outbox that somebody has dropped. No exception block around the insert instead:
  -- a subtransaction that writes costs a transaction id for each statement of a long transaction.
  if keys is null or pg_catalog.to_regclass('agent_sync.outbox') is null then
    return;
  end if;
  insert into agent_sync.outbox (source, key) select record.source, k from pg_catalog.unnest(keys) as k;
  perform pg_catalog.pg_notify('agent_sync', '');
end;
$$;

-- The triggers' functions: of inserts and deletes, of updates, of truncates. A statement that touched no row records nothing (array_agg of nothing is null).
-- Should a key not be found where it is expected (a renamed column, a value that cannot become json), the edit
-- goes through and the whole table counts as changed. The exception blocks only read, so they cost no transaction id.
create or replace function agent_sync.record_rows() returns trigger
language plpgsql security definer
set search_path = ''
as $$
declare
  keys text[];
begin
  begin
    if tg_table_name = 'agent_mcp_tools' then
      select array_agg(distinct r.agent_id::text) into keys from rows as r where r.agent_id is not null;
    else
      select array_agg(r.id::text) into keys from rows as r;
    end if;
  exception when others then
    keys := array[null::text];
  end;
  perform agent_sync.record(tg_table_name, keys);
  return null;
end;
$$;

-- Only what the mapping reads counts: the write-back, updated_at and an application's own columns record nothing.
-- Columns are named as text, so that one which is missing (schemas drift) is simply null on both sides. (offset 0: each
-- row becomes json once, not once a column.)
create or replace function agent_sync.record_update() returns trigger
language plpgsql security definer
set search_path = ''
as $$
declare
  keys text[];
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
    select array_agg(distinct c.key) into keys from changed as c where c.key is not null;
  exception when others then
    keys := array[null::text];
  end;
  perform agent_sync.record(tg_table_name, keys);
  return null;
end;
$$;

create or replace function agent_sync.record_truncate() returns trigger
language plpgsql security definer
set search_path = ''
as $$
begin
  perform agent_sync.record(tg_table_name, array[null::text]);
  return null;
end;
$$;

-- The triggers that should stand on the source tables and do not (absent, disabled, not `always`, calling something
-- else), each with the statement that puts it right. A source table that does not exist is none of our business.
-- `always`: session_replication_role = replica, as a restore sets it, must not silence them.
-- While a trigger was away its edits went unrecorded, so every agent that has an assistant of ours counts as changed. At
-- the first installation there is none.
create or replace function agent_sync.missing_triggers() returns table (source text, event text, ddl text)
language sql stable
set search_path = ''
as $$
  select s.source, e.event, pg_catalog.format(
    'create or replace trigger agent_sync_%2$s after %2$s on public.%1$I %3$s'
    ' for each statement execute function agent_sync.%4$s();'
    ' alter table public.%1$I enable always trigger agent_sync_%2$s;'
    ' insert into agent_sync.outbox (source, key) select ''agents'', null where exists (select from agent_sync.ledger);'
    ' notify agent_sync;',
    s.source, e.event, e.transition_tables, e.function
  )
  from pg_catalog.unnest(array['agents', 'agent_mcp_tools', 'mcp_tools', 'global_ai_engines', 'ai_models'])
    with ordinality as s (source, position)
  cross join (values
    (1, 'insert', 'referencing new table as rows', 'record_rows'),
    (2, 'update', 'referencing old table as old_rows new table as new_rows', 'record_update'),
    (3, 'delete', 'referencing old table as rows', 'record_rows'),
    (4, 'truncate', '', 'record_truncate')
  ) as e (position, event, transition_tables, function)
  join pg_catalog.pg_class as c on c.oid = pg_catalog.to_regclass('public.' || s.source) and c.relkind in ('r', 'p')
  left join pg_catalog.pg_trigger as t on t.tgrelid = c.oid and t.tgname = 'agent_sync_' || e.event
  where t.oid is null or t.tgenabled <> 'A'
    or t.tgfoid is distinct from pg_catalog.to_regprocedure('agent_sync.' || e.function || '()')
  order by s.position, e.position;
$$;

revoke all on all functions in schema agent_sync from public;
