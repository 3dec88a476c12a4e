-- $7 text[] graph_id, $8 text[] name, $9 text[] description, $10 text[] config, $11 text[] metadata; and what ledger_written.sql has, which
-- follows.
-- New assistants. One that somebody made in the meantime is left alone and missing from the answer. Versions that are left of one that
-- somebody has deleted behind our back are not the new one's.
-- The fingerprint as agent_sync.fingerprint has it, which each statement that calls it would parse anew.
with written as (
  insert into langgraph_server.assistants as a
    (id, graph_id, config, context, metadata, name, description, version, created_at, updated_at)
  select w.id, w.graph_id, w.config::jsonb, '{}',
    w.metadata::jsonb || jsonb_build_object(
      'synced_at', to_char(statement_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')),
    w.name, w.description, 1, statement_timestamp(), statement_timestamp()
  from unnest($1::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[])
    as w (id, graph_id, name, description, config, metadata)
  on conflict (id) do nothing
  returning a.id, pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.jsonb_build_array(
      a.graph_id, a.config, nullif(a.context, '{}'), a.name, a.description,
      a.metadata -> 'supabase_agent_id', a.metadata -> 'supabase_organization_id', a.metadata -> 'owner'
    )::text, 'UTF8')) as row_hash,
    a.xmin as row_xmin, a.ctid as row_ctid
), gone as (
  -- As in assistants_update.sql.
  delete from agent_sync.versions as v
  where v.ctid = any (array(
    select old.ctid
    from written
    cross join lateral (
      select o.ctid from agent_sync.versions as o where o.assistant_id = written.id order by o.version limit 25
    ) as old
  ))
)
