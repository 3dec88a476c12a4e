-- $1 text: an assistant, as the API shows it.
select graph_id, config, context, metadata, name, description, version, created_at, updated_at
from langgraph_server.assistants
where id = $1;
