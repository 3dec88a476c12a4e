-- $1 uuid: the last agent seen, null at first; $2 bigint: how many at most, null: all.
-- The agents that a pass looks at where nothing is in scope, in order of id: those in the ledger.
select distinct agent_id as id
from agent_sync.ledger
where $1::uuid is null or agent_id > $1
order by agent_id
limit $2;
