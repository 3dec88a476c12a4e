-- $1 text id, $2 text graph_id, $3 jsonb config, $4 jsonb context, $5 jsonb metadata, $6 text name, $7 text description.
-- An assistant that a client made. No row comes back when the id is taken. Versions that are left of one that somebody has deleted
-- behind our back are not this one's.
with created as (
  insert into langgraph_server.assistants as a
    (id, graph_id, config, context, metadata, name, description, version, created_at, updated_at)
  values ($1, $2, $3, $4, $5, $6, $7, 1, statement_timestamp(), statement_timestamp())
  on conflict (id) do nothing
  returning a.id, a.graph_id, a.config, a.context, a.metadata, a.name, a.description, a.version, a.created_at, a.updated_at
), gone as (
  delete from agent_sync.versions as v using created where v.assistant_id = created.id
)
select * from created;
