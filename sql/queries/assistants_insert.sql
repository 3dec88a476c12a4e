-- $1 text[] id, $2 text[] graph_id, $3 text[] name, $4 text[] description, $5 text[] config, $6 text[] metadata.
-- New assistants. One that somebody made in the meantime is left alone and missing from the answer. Versions that are left of one that
-- somebody has deleted behind our back are not the new one's.
-- The fingerprint as agent_sync.fingerprint has it, which each statement that calls it would parse anew.
with created as (
  insert into langgraph_server.assistants as a
    (id, graph_id, config, context, metadata, name, description, version, created_at, updated_at)
  select w.id, w.graph_id, w.config::jsonb, '{}',
    w.metadata::jsonb || jsonb_build_object(
      'synced_at', to_char(statement_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')),
    w.name, w.description, 1, statement_timestamp(), statement_timestamp()
  from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
    as w (id, graph_id, name, description, config, metadata)
  on conflict (id) do nothing
  returning a.id, pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.jsonb_build_array(
      a.graph_id, a.config, nullif(a.context, '{}'), a.name, a.description,
      a.metadata -> 'supabase_agent_id', a.metadata -> 'supabase_organization_id', a.metadata -> 'owner'
    )::text, 'UTF8')) as row_hash,
    a.xmin::text as row_xmin, a.ctid::text as row_ctid
), gone as (
  -- As in assistants_update.sql.
  delete from agent_sync.versions as v
  where v.ctid = any (array(
    select old.ctid
    from created
    cross join lateral (
      select o.ctid from agent_sync.versions as o where o.assistant_id = created.id order by o.version limit 25
    ) as old
  ))
)
select id, row_hash, row_xmin, row_ctid from created;
