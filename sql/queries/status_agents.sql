-- How many agents are in which state: of an agent with several assistants, in the worst of theirs.
select count(*) filter (where worst = 1) as failed, count(*) filter (where worst = 2) as conflict,
  count(*) filter (where worst = 3) as held, count(*) filter (where worst = 4) as synced,
  count(*) filter (where worst = 5) as removed
from (
  select min(case state when 'failed' then 1 when 'conflict' then 2 when 'held' then 3 when 'synced' then 4 else 5 end) as worst
  from agent_sync.ledger
  group by agent_id
) as agent;
