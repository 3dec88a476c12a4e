-- The end of a statement that has written assistants, or was told that they are: `written`. $1 text[] id, $2 uuid[] agent_id,
-- $3 uuid[] organization_id, $4 text[] owner, $5 bytea[] content_hash; $6 bytea[]: what their agents said, as a hash, where that is known.
insert into agent_sync.ledger as l
  (assistant_id, agent_id, organization_id, owner, state, content_hash, row_hash, source_hash, row_xmin, row_ctid, updated_at)
select w.id::uuid, w.agent_id, w.organization_id, w.owner, 'synced', w.content_hash, written.row_hash,
  pg_catalog.sha256(w.said || w.content_hash || written.row_hash), -- as in look_over.sql
  written.row_xmin, written.row_ctid, statement_timestamp()
from written
join unnest($1::text[], $2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $6::bytea[])
  as w (id, agent_id, organization_id, owner, content_hash, said) on w.id = written.id
on conflict (assistant_id) do update
set agent_id = excluded.agent_id, organization_id = excluded.organization_id, owner = excluded.owner, state = 'synced',
  content_hash = excluded.content_hash, row_hash = excluded.row_hash, source_hash = excluded.source_hash,
  row_xmin = excluded.row_xmin, row_ctid = excluded.row_ctid, removed_at = null, error = null, attempts = 0,
  updated_at = excluded.updated_at
returning l.assistant_id::text as id, l.row_hash;
