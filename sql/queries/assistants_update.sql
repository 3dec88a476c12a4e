-- $7 text[] graph_id, $8 text[] name, $9 text[] description, $10 text[] config, $11 text[] metadata, $12 boolean[] fresh,
-- $13 boolean[] adopt; and what ledger_written.sql has, which follows.
-- Existing assistants get new content; keys of the metadata that are not ours stay, but for a fresh one. One that is
-- adopted must still say that it is the system's. What another session holds is passed over, and missing from the answer.
-- What each was so far becomes one of its versions, of which twenty are kept. Where it becomes another owner's or another
-- organization's, all of them go: what one had is not the next one's to see.
-- The fingerprint as agent_sync.fingerprint has it, which each statement that calls it would parse anew.
with free as (
  select a.id, a.version, a.graph_id, a.config, a.context, a.metadata, a.name, a.description, a.created_at, a.updated_at
  from langgraph_server.assistants as a
  where a.id = any ($1::text[])
  order by a.id
  for no key update skip locked
), wanted as (
  select w.*, w.fresh or (free.metadata ->> 'owner', free.metadata ->> 'supabase_organization_id')
    is distinct from (w.metadata::jsonb ->> 'owner', w.metadata::jsonb ->> 'supabase_organization_id') as forgets
  from free
  join unnest($1::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::boolean[], $13::boolean[])
    as w (id, graph_id, name, description, config, metadata, fresh, adopt) on w.id = free.id
), written as (
  update langgraph_server.assistants as a
  set graph_id = w.graph_id, config = w.config::jsonb, context = '{}', name = w.name, description = w.description,
    metadata = case
        when w.fresh or jsonb_typeof(a.metadata) is distinct from 'object' then '{}'::jsonb
        else a.metadata - array['supabase_agent_id', 'supabase_organization_id', 'owner', 'synced_at']
      end || w.metadata::jsonb || jsonb_build_object(
        'synced_at', to_char(statement_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')),
    version = coalesce(a.version, 1) + 1, updated_at = statement_timestamp()
  from wanted as w
  where a.id = w.id and (not w.adopt or a.metadata ->> 'owner' = 'system')
    and a.id = any ($1::text[]) -- else the whole table is read for a batch
  returning a.id, a.version, w.forgets,
    pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.jsonb_build_array(
      a.graph_id, a.config, nullif(a.context, '{}'), a.name, a.description,
      a.metadata -> 'supabase_agent_id', a.metadata -> 'supabase_organization_id', a.metadata -> 'owner'
    )::text, 'UTF8')) as row_hash,
    a.xmin as row_xmin, a.ctid as row_ctid
), kept as (
  insert into agent_sync.versions as v
    (assistant_id, version, graph_id, config, context, metadata, name, description, created_at)
  select free.id, coalesce(free.version, 1), free.graph_id, free.config, free.context, free.metadata, free.name, free.description,
    coalesce(greatest(free.created_at, free.updated_at), statement_timestamp())
  from written
  join free on free.id = written.id
  where not written.forgets
  on conflict (assistant_id, version) do update
  set graph_id = excluded.graph_id, config = excluded.config, context = excluded.context, metadata = excluded.metadata,
    name = excluded.name, description = excluded.description
), gone as (
  -- Looked for assistant by assistant, few of each, whatever the planner believes of a table that has just grown.
  delete from agent_sync.versions as v
  where v.ctid = any (array(
    select old.ctid
    from written as u
    cross join lateral (
      select o.ctid
      from agent_sync.versions as o
      where o.assistant_id = u.id and o.version < case when u.forgets then 2147483647 else u.version - 20 end
      order by o.version
      limit 25
    ) as old
  ))
)
