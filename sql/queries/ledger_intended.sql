-- $1 uuid[], $2 uuid[], $3 uuid[], $4 text[], $5 bytea[], $6 bytea[]: assistants that are about to be written for the first time, outside
-- this database. Without a content hash: until there is an answer, they are ours only if they say just what was sent (row_hash).
insert into agent_sync.ledger as l (assistant_id, agent_id, organization_id, owner, state, row_hash, error, updated_at)
select w.assistant_id, w.agent_id, w.organization_id, w.owner, 'failed', w.row_hash,
  'its first write has not been answered yet', statement_timestamp()
from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $6::bytea[])
  as w (assistant_id, agent_id, organization_id, owner, content_hash, row_hash)
on conflict (assistant_id) do update
set organization_id = excluded.organization_id, owner = excluded.owner, state = 'failed', row_hash = excluded.row_hash,
  error = excluded.error, updated_at = excluded.updated_at
where l.agent_id = excluded.agent_id and l.content_hash is null;
