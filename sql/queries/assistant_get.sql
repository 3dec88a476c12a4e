-- $1 text: an assistant, as the API shows it, and what the ledger says of it.
select a.id, a.graph_id, a.config, a.context, a.metadata, a.name, a.description, a.version, a.created_at, a.updated_at,
  l.agent_id, coalesce(l.owner, a.metadata ->> 'owner') as owner, l.organization_id, l.content_hash
from langgraph_server.assistants as a
left join agent_sync.ledger as l on l.assistant_id = $1::uuid and l.content_hash is not null
where a.id = $1;
