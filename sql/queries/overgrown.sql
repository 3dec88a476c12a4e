-- Whether the outbox holds more changes than looking at everything, twice, would come to. (What one change of a whole table
-- is spread into must not count as that.)
select count(*) > 10000 + 2 * (select count(*) from (select from public.agents union all select from agent_sync.ledger) as known)
  as overgrown
from agent_sync.outbox;
