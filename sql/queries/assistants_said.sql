-- $1 text[]: assistants. What each of them says, as JSON.
select id, jsonb_build_object(
    'graph_id', graph_id, 'name', name, 'description', description, 'config', config, 'context', context, 'metadata', metadata
  )::text as said
from langgraph_server.assistants
where id = any ($1::text[]);
