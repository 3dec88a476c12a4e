-- $1 text[]: assistants. Which of them exist, to whom they say they belong, and what they say.
select id, metadata ->> 'owner' as owner,
  agent_sync.fingerprint(graph_id, config, context, name, description, metadata) as row_hash
from langgraph_server.assistants
where id = any ($1::text[]);
