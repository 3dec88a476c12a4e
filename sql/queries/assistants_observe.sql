-- $1 text[]: assistants. Which of them exist, to whom they say they belong, what they say, and which version of
-- the row that is.
select id, metadata ->> 'owner' as owner,
  agent_sync.fingerprint(graph_id, config, context, name, description, metadata) as row_hash,
  xmin::text as row_xmin, ctid::text as row_ctid
from langgraph_server.assistants
where id = any ($1::text[]);
