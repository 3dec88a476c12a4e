-- $1 bigint: at most so many agents that somebody should look at, the worst first: in the worst state of their assistants', and
-- of those the ones that failed most often.
select agent_id, state, error, attempts, updated_at
from (
  select distinct on (agent_id) agent_id, state, left(error, 1000) as error, attempts, updated_at,
    case state when 'failed' then 1 when 'conflict' then 2 else 3 end as rank
  from agent_sync.ledger
  where state in ('failed', 'conflict', 'held')
  order by agent_id, rank, attempts desc, assistant_id
) as agent
order by rank, attempts desc, updated_at, agent_id
limit $1;
