-- $1 uuid[]: agents; $2 uuid[]: assistants. What the ledger knows of either.
select assistant_id, agent_id, organization_id, owner, state, content_hash, row_hash, source_hash,
  row_xmin::text as row_xmin, row_ctid::text as row_ctid, attempts
from agent_sync.ledger
where agent_id = any ($1::uuid[]) or assistant_id = any ($2::uuid[]);
