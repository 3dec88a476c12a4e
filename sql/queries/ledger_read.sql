-- $1 uuid[]: agents; $2 uuid[]: assistants. What the ledger knows of either.
-- Row by row (offset 0), by the indexes: of a table that has just grown, the planner knows little, and would read all of it.
select e.assistant_id, e.agent_id, e.organization_id, e.owner, e.state, e.content_hash, e.row_hash, e.source_hash,
  e.row_xmin::text as row_xmin, e.row_ctid::text as row_ctid, e.attempts
from (
  select l.*
  from unnest($1::uuid[]) as a (id)
  cross join lateral (select * from agent_sync.ledger as l where l.agent_id = a.id offset 0) as l
  union all
  select l.*
  from unnest($2::uuid[]) as a (id)
  cross join lateral (select * from agent_sync.ledger as l where l.assistant_id = a.id offset 0) as l
  where l.agent_id <> all ($1::uuid[])
) as e;
