-- $1 text id, $2 text graph_id, $3 jsonb config, $4 jsonb context, $5 jsonb metadata, $6 text name, $7 text description.
-- An assistant that a client made. No row comes back when the id is taken.
insert into langgraph_server.assistants as a
  (id, graph_id, config, context, metadata, name, description, version, created_at, updated_at)
values ($1, $2, $3, $4, $5, $6, $7, 1, statement_timestamp(), statement_timestamp())
on conflict (id) do nothing
returning graph_id, config, context, metadata, name, description, version, created_at, updated_at;
