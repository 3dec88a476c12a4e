-- $1 text: who is looking; $2 uuid[], $3 uuid[]: the agents whose shared assistants they may see, and their organizations, null:
-- all; $4 jsonb metadata, $5 text graph_id, $6 text name: what is looked for; $7 text: the column to sort by; $8 boolean: ascending;
-- $9 bigint limit, null: none; $10 bigint offset; $11 text[]: the fields that are read. Whose a synced assistant is the ledger says,
-- never its metadata; and what it says is of the organization that the ledger names.
select a.id, a.version, a.created_at, a.updated_at, l.agent_id, coalesce(l.owner, a.metadata ->> 'owner') as owner,
  l.organization_id, l.content_hash,
  case when 'graph_id' = any ($11) then a.graph_id end as graph_id,
  case when 'name' = any ($11) then a.name end as name,
  case when 'description' = any ($11) then a.description end as description,
  -- A context may be nothing but the config's mirror.
  case when $11 && array['config', 'context'] then a.config end as config,
  case when 'context' = any ($11) then a.context end as context,
  case when 'metadata' = any ($11) then a.metadata end as metadata,
  row_number() over (order by
    case when $8 then case $7 when 'created_at' then a.created_at when 'updated_at' then a.updated_at end end,
    case when not $8 then case $7 when 'created_at' then a.created_at when 'updated_at' then a.updated_at end end desc,
    case when $8 then case $7 when 'name' then lower(a.name) when 'graph_id' then lower(a.graph_id) when 'id' then a.id end end,
    case when not $8 then case $7 when 'name' then lower(a.name) when 'graph_id' then lower(a.graph_id) when 'id' then a.id end end desc,
    a.id) as place
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
order by place
limit $9 offset $10;
