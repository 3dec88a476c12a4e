-- $1 text: who is looking; $2 uuid[]: the agents whose shared assistants they may see, null: all; $3 jsonb metadata, $4 text
-- graph_id, $5 text name: what is looked for; $6 text: the column to sort by; $7 boolean: ascending; $8 bigint limit, null: none;
-- $9 bigint offset. Whose a synced assistant is the ledger says, never its metadata.
select a.id, a.graph_id, a.config, a.context, a.metadata, a.name, a.description, a.version, a.created_at, a.updated_at,
  l.agent_id, l.owner
from langgraph_server.assistants as a
left join agent_sync.ledger as l on l.assistant_id::text = a.id and l.content_hash is not null
where case
    when l.assistant_id is null then a.metadata ->> 'owner' = $1
    when l.owner = 'system' and $1 <> 'system' then $2::uuid[] is null or l.agent_id = any ($2)
    else l.owner = $1
  end
  and a.metadata @> $3
  and ($4::text is null or a.graph_id = $4)
  and ($5::text is null or strpos(lower(coalesce(a.name, 'Untitled')), lower($5)) > 0)
order by
  case when $7 then case $6 when 'created_at' then a.created_at when 'updated_at' then a.updated_at end end,
  case when not $7 then case $6 when 'created_at' then a.created_at when 'updated_at' then a.updated_at end end desc,
  case when $7 then case $6 when 'name' then lower(a.name) when 'graph_id' then lower(a.graph_id) when 'id' then a.id end end,
  case when not $7 then case $6 when 'name' then lower(a.name) when 'graph_id' then lower(a.graph_id) when 'id' then a.id end end desc,
  a.id
limit $8 offset $9;
