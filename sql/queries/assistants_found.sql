-- $1 text: who is looking; $2 uuid[], $3 uuid[]: the agents whose shared assistants they may see, and their organizations, null:
-- all; $4 jsonb metadata, $5 text graph_id, $6 text name: what is looked for. Whose a synced assistant is the ledger says, never its
-- metadata; and what it says is of the organization that the ledger names. Only what clients can ask for by its id: a runtime's own
-- assistants may have others.
select a.id, a.graph_id, a.config, a.context, a.metadata, a.name, a.description, a.version, a.created_at, a.updated_at,
  l.agent_id, coalesce(l.owner, a.metadata ->> 'owner') as owner, l.organization_id, l.content_hash
from langgraph_server.assistants as a
left join agent_sync.ledger as l on l.assistant_id::text = a.id and l.content_hash is not null
where case
    when l.assistant_id is null then a.metadata ->> 'owner' = $1
    when l.owner = 'system' and $1 <> 'system' then $2::uuid[] is null or (l.agent_id, coalesce(l.organization_id, uuid '00000000-0000-0000-0000-000000000000')) in (
      select v.agent_id, coalesce(v.organization_id, uuid '00000000-0000-0000-0000-000000000000')
      from unnest($2::uuid[], $3::uuid[]) as v (agent_id, organization_id)
    )
    else l.owner = $1
  end
  and a.metadata @> $4
  and ($5::text is null or a.graph_id = $5)
  and ($6::text is null or strpos(lower(coalesce(a.name, 'Untitled')), lower($6)) > 0)
  and a.id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
