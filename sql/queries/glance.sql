-- $1 uuid: an agent; $2 text: who asks for it. In one snapshot: the agent as it is read anywhere else, what all workers share, the
-- ledger's entries that the answer depends on, and their assistants as the API shows them. (Sent prepared, so all of it comes as text.)
with agent as materialized (
  /* read */ select null::uuid as id /* end */
)
select (select max(version) from agent_sync.migrations) as version,
  coalesce((select scope from agent_sync.settings), 'none') as scope,
  r.id, r.agent, r.tools, r.model, r.too_large,
  l.assistant_id, l.agent_id, l.organization_id, l.owner, l.state,
  encode(l.content_hash, 'hex') as content_hash, encode(l.row_hash, 'hex') as row_hash,
  case when a.id is not null then
    encode(agent_sync.fingerprint(a.graph_id, a.config, a.context, a.name, a.description, a.metadata), 'hex')
  end as says,
  a.metadata ->> 'owner' as says_owner,
  a.graph_id, a.name, a.description, a.version as assistant_version,
  case when jsonb_typeof(a.config) = 'object' then a.config else '{}' end as config,
  case
    when jsonb_typeof(a.context) = 'object' and a.context <> '{}' then a.context
    when jsonb_typeof(a.config -> 'configurable') = 'object' then a.config -> 'configurable'
    else '{}'
  end as context,
  case when jsonb_typeof(a.metadata) = 'object' then a.metadata else '{}' end as metadata,
  (extract(epoch from a.created_at) * 1000000)::bigint as created_at,
  (extract(epoch from a.updated_at) * 1000000)::bigint as updated_at
from (select) as one
left join agent as r on true
left join agent_sync.ledger as l on l.agent_id = $1 and (l.owner in ('system', $2) or l.assistant_id = $1) or l.assistant_id = $1
left join langgraph_server.assistants as a on a.id = l.assistant_id::text
