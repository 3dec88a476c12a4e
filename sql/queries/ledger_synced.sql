-- $1 uuid[], $2 uuid[], $3 uuid[], $4 text[], $5 bytea[], $6 bytea[]: assistants that were just written.
insert into agent_sync.ledger as l
  (assistant_id, agent_id, organization_id, owner, state, content_hash, row_hash, updated_at)
select w.assistant_id, w.agent_id, w.organization_id, w.owner, 'synced', w.content_hash, w.row_hash, statement_timestamp()
from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $6::bytea[])
  as w (assistant_id, agent_id, organization_id, owner, content_hash, row_hash)
on conflict (assistant_id) do update
set agent_id = excluded.agent_id, organization_id = excluded.organization_id, owner = excluded.owner, state = 'synced',
  content_hash = excluded.content_hash, row_hash = excluded.row_hash, removed_at = null, error = null, attempts = 0,
  updated_at = excluded.updated_at;
