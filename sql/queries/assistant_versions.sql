-- $1 text: an assistant. Its versions, the current one among them, each with what the ledger says of the assistant. A version of another
-- owner's or another organization's is nobody's, however it came to be left.
with current as (
  select a.id, coalesce(a.version, 1) as version, a.graph_id, a.config, a.context, a.metadata, a.name, a.description, a.updated_at,
    l.agent_id, coalesce(l.owner, a.metadata ->> 'owner') as owner, l.organization_id, l.content_hash
  from langgraph_server.assistants as a
  left join agent_sync.ledger as l on l.assistant_id = $1::uuid and l.content_hash is not null
  where a.id = $1
), before as (
  select v.*
  from current as c
  join agent_sync.versions as v on v.assistant_id = c.id
  where (v.metadata ->> 'owner', v.metadata ->> 'supabase_organization_id')
    is not distinct from (c.owner, coalesce(c.organization_id::text, c.metadata ->> 'supabase_organization_id'))
)
select c.id, c.version, c.graph_id, c.config, c.context, c.metadata, c.name, c.description,
  coalesce(b.created_at, c.updated_at) as created_at, c.agent_id, c.owner, c.organization_id, c.content_hash
from current as c
left join before as b on b.version = c.version
union all
select c.id, b.version, b.graph_id, b.config, b.context, b.metadata, b.name, b.description,
  b.created_at, c.agent_id, c.owner, c.organization_id, c.content_hash
from current as c
join before as b on b.version <> c.version
