-- $1 to $5 as in ledger_written.sql, $7 bytea[] row_hash: assistants that are about to be written outside this database, and of which nobody
-- has said yet that they are ours. Without a content hash (empty) they are so only if they say just what is sent (row_hash).
insert into agent_sync.ledger as l
  (assistant_id, agent_id, organization_id, owner, state, content_hash, row_hash, error, updated_at)
select w.id::uuid, w.agent_id, w.organization_id, w.owner, 'failed', nullif(w.content_hash, ''), w.row_hash,
  'its first write has not been answered yet', statement_timestamp()
from unnest($1::text[], $2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $7::bytea[])
  as w (id, agent_id, organization_id, owner, content_hash, row_hash)
on conflict (assistant_id) do update
set organization_id = excluded.organization_id, owner = excluded.owner, state = 'failed', content_hash = excluded.content_hash,
  row_hash = excluded.row_hash, row_xmin = null, row_ctid = null, error = excluded.error, updated_at = excluded.updated_at
where l.agent_id = excluded.agent_id and l.content_hash is null;
