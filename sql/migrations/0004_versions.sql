-- agent-sync, version 4: the versions that an assistant had before. A worker of version 3 keeps none, and knows nothing of those that
-- must go when an assistant changes hands; it stops writing when it meets this version.

-- The current one is the assistant's own row, so an assistant that is never changed has none here. One that was made the current one
-- again is here as well, as it says when it was made. Whoever writes an assistant's versions holds its row.
create table if not exists agent_sync.versions (
  assistant_id text not null, -- as in langgraph_server.assistants
  version integer not null,
  graph_id text,
  config jsonb,
  context jsonb,
  metadata jsonb,
  name text,
  description text,
  created_at timestamptz not null, -- when this version was made
  primary key (assistant_id, version)
);
