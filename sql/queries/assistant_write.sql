-- $1 text id, $2 text graph_id, $3 jsonb config, $4 jsonb context, $5 jsonb metadata, $6 text name, $7 text description: an assistant as
-- a client wants it; $8 integer: the version that it becomes again, null: a new one. The row was taken before (assistant_take.sql).
-- What it was so far becomes one of its versions; those older than the twenty before a new one go.
with was as (
  select a.id, coalesce(a.version, 1) as version, a.graph_id, a.config, a.context, a.metadata, a.name, a.description,
    coalesce(greatest(a.created_at, a.updated_at), statement_timestamp()) as made_at,
    coalesce($8, 1 + greatest(coalesce(a.version, 1), (
      select max(v.version) from agent_sync.versions as v where v.assistant_id = a.id))) as becomes
  from langgraph_server.assistants as a
  where a.id = $1
), kept as (
  insert into agent_sync.versions as v
    (assistant_id, version, graph_id, config, context, metadata, name, description, created_at)
  select id, version, graph_id, config, context, metadata, name, description, made_at
  from was
  where version >= becomes - 20
  -- It was made the current one again: it was made then.
  on conflict (assistant_id, version) do update
  set graph_id = excluded.graph_id, config = excluded.config, context = excluded.context, metadata = excluded.metadata,
    name = excluded.name, description = excluded.description
), gone as (
  delete from agent_sync.versions as v using was where v.assistant_id = was.id and v.version < was.becomes - 20
)
update langgraph_server.assistants as a
set graph_id = $2, config = $3, context = $4, metadata = $5, name = $6, description = $7, version = was.becomes,
  updated_at = statement_timestamp()
from was
where a.id = was.id
returning a.graph_id, a.config, a.context, a.metadata, a.name, a.description, a.version, a.created_at, a.updated_at;
