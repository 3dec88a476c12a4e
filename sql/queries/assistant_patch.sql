-- $1 text id, $2 text graph_id, $3 jsonb config, $4 jsonb context, $5 jsonb metadata, $6 text name, $7 text description.
-- An assistant as a client wants it. The row was taken before (assistant_take.sql).
update langgraph_server.assistants as a
set graph_id = $2, config = $3, context = $4, metadata = $5, name = $6, description = $7,
  version = coalesce(a.version, 0) + 1, updated_at = statement_timestamp()
where a.id = $1
returning graph_id, config, context, metadata, name, description, version, created_at, updated_at;
