-- $1 uuid[], $2 uuid[], $3 uuid[], $4 text[], $5 bytea[], $6 bytea[]: assistants that were just written; $7 bytea[], $8 text[], $9 text[]:
-- what their agents said, and which version of its row each is.
insert into agent_sync.ledger as l
  (assistant_id, agent_id, organization_id, owner, state, content_hash, row_hash, source_hash, row_xmin, row_ctid, updated_at)
select w.assistant_id, w.agent_id, w.organization_id, w.owner, 'synced', w.content_hash, w.row_hash,
  w.source_hash, w.row_xmin::xid, w.row_ctid::tid, statement_timestamp()
from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $6::bytea[], $7::bytea[], $8::text[], $9::text[])
  as w (assistant_id, agent_id, organization_id, owner, content_hash, row_hash, source_hash, row_xmin, row_ctid)
on conflict (assistant_id) do update
set agent_id = excluded.agent_id, organization_id = excluded.organization_id, owner = excluded.owner, state = 'synced',
  content_hash = excluded.content_hash, row_hash = excluded.row_hash, source_hash = excluded.source_hash,
  row_xmin = excluded.row_xmin, row_ctid = excluded.row_ctid, removed_at = null, error = null, attempts = 0,
  updated_at = excluded.updated_at;
