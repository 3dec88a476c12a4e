-- found: what assistants_found.sql finds; $7 text: the column to sort by; $8 boolean: ascending; $9 bigint limit; $10 bigint offset;
-- $11 text[]: the fields that are read. A page of it, and one row more where there is one: that row is `beyond`.
select *, place - $10 > $9 as beyond
from (
  select f.id, f.version, f.created_at, f.updated_at, f.agent_id, f.owner, f.organization_id, f.content_hash,
    case when 'graph_id' = any ($11) then f.graph_id end as graph_id,
    case when 'name' = any ($11) then f.name end as name,
    case when 'description' = any ($11) then f.description end as description,
    -- A context may be nothing but the config's mirror.
    case when $11 && array['config', 'context'] then f.config end as config,
    case when 'context' = any ($11) then f.context end as context,
    case when 'metadata' = any ($11) then f.metadata end as metadata,
    row_number() over (order by
      case when $8 then case $7 when 'created_at' then f.created_at when 'updated_at' then f.updated_at end end,
      case when not $8 then case $7 when 'created_at' then f.created_at when 'updated_at' then f.updated_at end end desc,
      case when $8 then case $7 when 'name' then lower(f.name) when 'graph_id' then lower(f.graph_id) when 'id' then f.id end end,
      case when not $8 then case $7 when 'name' then lower(f.name) when 'graph_id' then lower(f.graph_id) when 'id' then f.id end end desc,
      f.id) as place
  from found as f
) as placed
order by place
limit $9 + 1 offset $10
