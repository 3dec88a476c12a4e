-- $1 uuid[], $2 uuid[], $3 text[], $4 text[]: assistants that we should write but that somebody else has.
insert into agent_sync.ledger as l (assistant_id, agent_id, owner, state, error, updated_at)
select c.assistant_id, c.agent_id, c.owner, 'conflict', c.error, statement_timestamp()
from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[]) as c (assistant_id, agent_id, owner, error)
on conflict (assistant_id) do update
set state = 'conflict', error = excluded.error, content_hash = null, row_hash = null, updated_at = excluded.updated_at
where l.agent_id = excluded.agent_id and (l.state <> 'conflict' or l.error is distinct from excluded.error);
