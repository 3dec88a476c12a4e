-- $1 uuid[], $2 text[], $3 boolean[]: agents that could not be synced, why, and whether one without any entry gets
-- one (it is in scope, so its assistant is missed). What already stands stays as it was. Returns the failures in a row.
with failures as (
  select * from unnest($1::uuid[], $2::text[], $3::boolean[]) as f (agent_id, error, enter)
), entered as (
  insert into agent_sync.ledger (assistant_id, agent_id, owner, state, error, attempts)
  select f.agent_id, f.agent_id, 'system', 'failed', f.error, 1
  from failures as f
  where f.enter and not exists (select from agent_sync.ledger as l where l.agent_id = f.agent_id)
  on conflict (assistant_id) do nothing
  returning agent_id, attempts
), marked as (
  update agent_sync.ledger as l
  set state = 'failed', error = f.error, attempts = l.attempts + 1, updated_at = statement_timestamp()
  from failures as f
  where l.agent_id = f.agent_id and l.state <> 'conflict'
  returning l.agent_id, l.attempts
)
select agent_id, max(attempts) as attempts
from (select * from entered union all select * from marked) as failed
group by agent_id;
